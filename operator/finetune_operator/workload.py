"""What Kueue says of an attempt in its Workload, as values that policy decides on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """What a condition of Kueue's says: its reason and its message."""

    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


@dataclass(frozen=True)
class WorkloadView:
    """What Kueue holds of an attempt: why it is not admitted, and why it was evicted; None when it is not."""

    waits: Said | None
    evicted: Said | None


def read_workload(found: Object) -> WorkloadView:
    """The view of Kueue's Workload, v1beta1 or v1beta2."""
    status = found.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    reserved, admitted = conditions.get("QuotaReserved", {}), conditions.get("Admitted", {})
    evicted = conditions.get("Evicted", {})
    checks = [one for one in status.get("admissionChecks") or () if one.get("state") != "Ready"]
    if reserved.get("status") != "True":
        waits = _said(reserved)
    elif admitted.get("status") != "True":
        said = [f"{one['name']} is {one.get('state')}: {one.get('message', '')}".rstrip(": ") for one in checks]
        waits = _said(admitted, *said)
    else:
        waits = None
    return WorkloadView(waits, _said(evicted) if evicted.get("status") == "True" else None)


def ray_job_owners(workload: Object) -> list[dict[str, Any]]:
    """References to the RayJobs that a Workload was made for: one, or none."""
    return [one for one in workload["metadata"].get("ownerReferences") or () if one["kind"] == "RayJob"]


def _said(condition: Object, *more: str) -> Said | None:
    if not condition.get("reason"):
        return None
    return Said(condition["reason"], "; ".join(filter(None, (condition.get("message", ""), *more))))
