"""What only a cluster uses: credentials by reference, queue, failure policy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import CountOrZero, Part
from finetune_trainer.spec.names import ObjectName, SecretKey


class SecretRef(Part):
    """A Secret in the job's namespace."""

    name: ObjectName
    """Name of the Secret."""


class SecretKeyRef(SecretRef):
    """One key of a Secret in the job's namespace."""

    key: SecretKey = "token"
    """Key within the Secret."""


class Storage(Part):
    """Credentials for S3; without them, the service account's web identity is used."""

    secret_ref: SecretRef | None = None
    """Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`."""


class Hub(Part):
    """Credentials for `hf://` models."""

    token_secret_ref: SecretKeyRef | None = None
    """Secret with the hub's access token."""


class RuntimeRef(Part):
    """The FineTuneRuntime to run on."""

    name: ObjectName = "default"
    """Name of the FineTuneRuntime."""


class FailureReason(StrEnum):
    """Why an attempt ended."""

    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    DEVICE_OUT_OF_MEMORY = "DeviceOutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    STORAGE = "Storage"
    HANG = "Hang"
    IMAGE_PULL = "ImagePull"
    UNSCHEDULABLE = "Unschedulable"
    START_DEADLINE = "StartDeadline"
    RAY_INTERNAL = "RayInternal"
    ERROR = "Error"


class FailureRule(Part):
    """A budget of its own for some reasons."""

    reasons: Annotated[tuple[FailureReason, ...], Field(min_length=1, max_length=16)]
    """Reasons that this rule is for."""

    max_retries: CountOrZero
    """Attempts that may end for these reasons without counting against `maxAttempts`."""


class FailurePolicy(Part):
    """How often a failed run is tried again."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 3
    """Clusters that are started for the job before it fails."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 5
    """Restarts of the workers within one attempt."""

    rules: Annotated[tuple[FailureRule, ...], Field(max_length=16)] = ()
    """Budgets of their own for some reasons, each of which stands in one rule at most."""
