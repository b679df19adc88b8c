"""A tenant on the cluster: applies jobs, waits for what their status says, and looks at what lies in the bucket."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.cluster import Cluster
from control_plane import KubectlFailed

Object = dict[str, Any]
LOOK = 0.25
"""Seconds between two looks at an object that is waited for."""


@dataclass(frozen=True)
class Tenant:
    """`name` is the namespace's and the bucket's; `store` is a boto3 S3 client with the tenant's own keys."""

    cluster: Cluster
    name: str
    store: Any

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """kubectl in the tenant's namespace."""
        return self.cluster.plane.kubectl(*arguments, input=input, namespace=self.name)

    def apply(self, manifest: Object) -> str:
        """Create a job and return its name."""
        self.kubectl("apply", "-f", "-", input=json.dumps(manifest))
        name: str = manifest["metadata"]["name"]
        return name

    def job(self, name: str) -> Object:
        """The job as it is now."""
        found: Object = json.loads(self.kubectl("get", "finetunejob", name, "-o", "json"))
        return found

    def status(self, name: str) -> Object:
        """Its status; empty before the operator has seen it."""
        found: Object = self.job(name).get("status", {})
        return found

    def until(self, name: str, what: str, holds: Callable[[Object], object], seconds: float = 120) -> Object:
        """Wait until a job's status is as wanted, and return it; AssertionError with the status when it takes longer.

        A job that fails for good is not waited for.
        """
        deadline, status = time.monotonic() + seconds, {}
        while time.monotonic() < deadline:
            try:
                status = self.status(name)
            except KubectlFailed:  # the API server may be the one that is down
                time.sleep(LOOK)
                continue
            if holds(status):
                return status
            if status.get("phase") == "Failed":
                break
            time.sleep(LOOK)
        raise AssertionError(f"{name}: not {what} within {seconds:.0f} s; its status: {json.dumps(status, indent=1)}")

    def until_step(self, name: str, step: int, seconds: float = 180) -> Object:
        """Wait until a job has reported a step, or is complete."""

        def there(status: Object) -> bool:
            return step_of(status) >= step or status.get("phase") == "Succeeded"

        return self.until(name, f"at step {step}", there, seconds)

    def until_phase(self, name: str, phase: str, seconds: float = 180) -> Object:
        """Wait for a phase."""
        return self.until(name, phase, lambda status: status.get("phase") == phase, seconds)

    def until_over(self, name: str, seconds: float = 300) -> Object:
        """Wait until a job has succeeded or failed for good."""
        over = ("Succeeded", "Failed")
        return self.until(name, "over", lambda status: status.get("phase") in over, seconds)

    def pods(self, job: str, role: str | None = None) -> list[Object]:
        """The pods of a job, those of one role or all."""
        selector = f"finetune.dev/job={job}" + (f",finetune.dev/role={role}" if role else "")
        found: list[Object] = json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def events(self, job: str) -> list[str]:
        """Reasons of the events about a job, oldest first."""
        listed = json.loads(
            self.kubectl("get", "events", "--field-selector", f"involvedObject.name={job}", "-o", "json")
        )
        ordered = sorted(listed["items"], key=lambda event: str(event.get("firstTimestamp") or event.get("eventTime")))
        return [event["reason"] for event in ordered]

    def keys(self, prefix: str) -> list[str]:
        """Keys in the bucket that begin with a prefix."""
        pages = self.store.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        """One object of the bucket."""
        data: bytes = self.store.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def adapter(self, job: str) -> bytes:
        """The weights of the adapter that a job of `manifests.job` exported."""
        return self.read(f"{job}/adapter/adapter_model.safetensors")

    def log(self, job: str) -> list[Object]:
        """The entries of a job's checkpoint log, oldest first."""
        return [json.loads(self.read(key)) for key in self.keys(f"{job}/checkpoints/") if "/log/" in key]

    def commits(self, job: str) -> list[int]:
        """The steps of all its commits, in the order of the log."""
        return [entry["step"] for entry in self.checkpoints(job)]

    def checkpoints(self, job: str) -> list[Object]:
        """The entries of all its commits, in the order of the log."""
        return [entry for entry in self.log(job) if entry["kind"] == "checkpoint"]

    def leave(self) -> None:
        """Delete the namespace with all that is in it; nobody waits for that."""
        self.kubectl("delete", "finetunejobs", "--all", "--wait=false")
        self.kubectl("delete", "namespace", self.name, "--wait=false")


def step_of(status: Object) -> int:
    """The step that a status shows."""
    return int(status.get("progress", {}).get("step", 0))


def condition(status: Object, kind: str) -> Object:
    """The condition of a type; empty without one."""
    return next((one for one in status.get("conditions", ()) if one["type"] == kind), {})


def trains(number: int, status: Object) -> bool:
    """Whether this attempt has made a step of its own."""
    found = attempt_of(number, status)
    return int(found.get("lastStep", 0)) > int(found.get("firstStep", 0))


def ended(number: int, status: Object) -> bool:
    """Whether this attempt is over."""
    return "outcome" in attempt_of(number, status)


def attempt_of(number: int, status: Object) -> Object:
    """An attempt, empty before it is there."""
    return next((one for one in status.get("attempts") or () if one["number"] == number), {})
