"""Every word that a status may hold: phases, condition types and the reasons of conditions, attempts and events."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """One word for people, derived from the conditions; nothing decides by it."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    TRAINING = "Training"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    RESTARTING = "Restarting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """Types of the conditions of a FineTuneJob."""

    ADMITTED = "Admitted"
    CLUSTER_READY = "ClusterReady"
    TRAINING = "Training"
    CHECKPOINT_FRESH = "CheckpointFresh"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class Reason(StrEnum):
    """Why a condition has its status, or why an attempt ended; events use the same words."""

    # before a cluster exists
    ADMITTED = "Admitted"
    QUEUED = "Queued"
    RUN_LIMIT_REACHED = "RunLimitReached"
    RUNTIME_MISSING = "RuntimeMissing"
    RUNTIME_UNSUITABLE = "RuntimeUnsuitable"
    FORBIDDEN = "Forbidden"
    NAME_TAKEN = "NameTaken"
    KUBERAY_MISSING = "KubeRayMissing"
    # while one exists
    STARTING = "Starting"
    CONTAINERS_NOT_READY = "ContainersNotReady"
    KUBERAY_SILENT = "KubeRaySilent"
    READY = "Ready"
    RUNNING = "Running"
    STOPPING = "Stopping"
    RETRYING = "Retrying"
    COMMITTED = "Committed"
    NONE_YET = "NoneYet"
    STALE = "Stale"
    CHECKPOINT_DAMAGED = "CheckpointDamaged"
    COMMIT_EXCEEDS_GRACE = "CommitExceedsGrace"
    # ends that were asked for
    SUCCEEDED = "Succeeded"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    DELETED = "Deleted"
    # ends of an attempt: the classes of failures
    USER_ERROR = "UserError"
    BAD_DATA = "BadData"
    DEVICE_OUT_OF_MEMORY = "DeviceOutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    STORAGE = "Storage"
    HANG = "Hang"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    IMAGE_PULL = "ImagePull"
    UNSCHEDULABLE = "Unschedulable"
    START_DEADLINE = "StartDeadline"
    RAY_INTERNAL = "RayInternal"
    VALIDATION = "Validation"
    ERROR = "Error"
    # the end of the job by its own limit
    ACTIVE_DEADLINE = "ActiveDeadline"


FAILURES: tuple[Reason, ...] = (
    Reason.USER_ERROR,
    Reason.BAD_DATA,
    Reason.DEVICE_OUT_OF_MEMORY,
    Reason.HOST_OUT_OF_MEMORY,
    Reason.STORAGE,
    Reason.HANG,
    Reason.PREEMPTED,
    Reason.EVICTED,
    Reason.NODE_LOST,
    Reason.IMAGE_PULL,
    Reason.UNSCHEDULABLE,
    Reason.START_DEADLINE,
    Reason.RAY_INTERNAL,
    Reason.VALIDATION,
    Reason.ERROR,
)
"""The classes into which the end of an attempt is sorted; `policy.budget` has a budget for each."""

ENDS: tuple[Reason, ...] = (
    Reason.SUCCEEDED,
    Reason.SUSPENDED,
    Reason.DELETED,
    Reason.ACTIVE_DEADLINE,
    *FAILURES,
)
"""Every reason for which an attempt ends."""
