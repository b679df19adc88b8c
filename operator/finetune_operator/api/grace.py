"""How long a stopped run may take to commit: what was asked for, or what its commits were seen to need."""

from __future__ import annotations

from finetune_operator.api.status import CheckpointStatus

SAFETY = 2
"""A stop gets this many times what was measured: the store is slower when many jobs stop at once, as in a drain."""

LONGEST = 3600
"""Seconds that are given without being asked for; a node that must go does not wait for ever."""


def stop_seconds(checkpoint: CheckpointStatus | None) -> int | None:
    """Seconds that a stop takes by what was measured last; None before a commit was.

    The step that runs, then the commit that may be in the making beside it, and then that of the step itself.
    """
    if checkpoint is None or checkpoint.seconds is None:
        return None
    return (checkpoint.step_seconds or 0) + 2 * checkpoint.seconds


def grace_seconds(asked: int, checkpoint: CheckpointStatus | None) -> int:
    """Seconds that a stop may take: `asked`, or more where a commit was measured that needs more."""
    measured = stop_seconds(checkpoint)
    return asked if measured is None else max(asked, min(SAFETY * measured, LONGEST))
