"""One attempt in the status of a FineTuneJob, and which nodes the attempts so far speak against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from finetune_operator.api.reasons import Reason
from finetune_operator.api.values import Long, Time, Uri, word_or
from finetune_trainer.spec.base import CountOrZero, Part

KnownReason = Annotated[Reason, word_or(Reason.ERROR)]
NodeName = Annotated[str, Field(max_length=253)]

OFFENCES = 2
"""Attempts that ended on a node for a reason of its own, from which on the next ones keep off it."""

NO_ROOM = (Reason.UNSCHEDULABLE, Reason.START_DEADLINE)
"""Ends of an attempt that may have found no room because it kept off a node."""


class AttemptStatus(Part):
    """One Ray cluster that was started for the job."""

    number: Annotated[int, Field(ge=1)]
    """Counts from 1."""

    ray_job: Annotated[str, Field(max_length=63)]
    """Name of its RayJob."""

    started_at: Time
    """When its RayJob was created."""

    admitted_at: Time | None = None
    """When its first pod was created; a queue or a quota may hold an attempt back."""

    running_at: Time | None = None
    """When its ranks first reported."""

    finished_at: Time | None = None
    """When it ended; absent while it lives."""

    outcome: Literal["Succeeded", "Failed", "Stopped"] | None = None
    """How it ended; absent while it lives."""

    reason: KnownReason | None = None
    """Why it ended, as one word."""

    message: Long | None = None
    """Why it ended: the last useful line of the cause."""

    logs: Uri | None = None
    """Where the output of its launcher and its ranks is stored while it is written; `finetune logs` prints it."""

    grace_seconds: CountOrZero | None = None
    """Time that its pods have to commit when they are stopped."""

    node: NodeName | None = None
    """Node that it ended on, if it ended for a reason that may be the node's: `NodeLost`, `RayInternal`."""

    avoided_nodes: Annotated[tuple[NodeName, ...], Field(max_length=5)] = ()
    """Nodes that its pods keep off, because two attempts ended on each of them."""

    first_step: CountOrZero | None = None
    """The step that it began at."""

    last_step: CountOrZero | None = None
    """The last step that it reported."""

    steps_lost: CountOrZero | None = None
    """Steps that were trained and are in no commit: at its restarts so far, and after its last commit once it ended."""


def repeat_offenders(attempts: Sequence[AttemptStatus]) -> tuple[str, ...]:
    """The nodes that a next attempt keeps off, by name; all are forgiven once an attempt without them found no room."""
    forgiven = max((one.number for one in attempts if one.avoided_nodes and one.reason in NO_ROOM), default=0)
    ends = Counter(one.node for one in attempts if one.number > forgiven)
    return tuple(sorted(node for node, count in ends.items() if node is not None and count >= OFFENCES))
