"""A decision while it is being made: the status as it will be, and the actions so far."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.status import Condition, JobStatus
from finetune_operator.policy.actions import Action, Decision
from finetune_operator.policy.seen import Seen

KEPT_ATTEMPTS = 10
LONGEST_MESSAGE = 4096
"""Characters of a condition's message that are kept; the rest is in the logs."""


class Draft:
    """Policies change `status` and add actions; nothing of it happens before `decision` is carried out."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.status: JobStatus = seen.job.status
        self.actions: list[Action] = []
        self._wake: list[datetime] = []

    @property
    def written(self) -> JobStatus:
        """The status as the API server has it: what is not in it may be forgotten at any moment."""
        return self.seen.job.status

    def update(self, **fields: Any) -> None:
        """Change fields of the status."""
        self.status = self.status.model_copy(update=fields)

    def act(self, *actions: Action) -> None:
        """Add actions, in the order in which they are to be carried out."""
        self.actions += actions

    def wake_at(self, moment: datetime | None) -> None:
        """Look again at that moment, if nothing changes before."""
        if moment is not None:
            self._wake.append(moment)

    def condition(self, kind: ConditionType, holds: bool | None, reason: Reason, message: str = "") -> None:
        """Set a condition; the transition time moves only when its status does."""
        text = "Unknown" if holds is None else str(holds)
        before = self.status.condition(kind)
        since = before.last_transition_time if before is not None and before.status == text else self.seen.now
        found = Condition(
            type=kind,
            status=text,  # type: ignore[arg-type]  # one of three literals, made just above
            reason=reason,
            message=message[:LONGEST_MESSAGE],
            last_transition_time=since,
            observed_generation=self.seen.job.generation,
        )
        others = tuple(one for one in self.status.conditions if one.type != kind)
        order = list(ConditionType)
        self.update(conditions=tuple(sorted((*others, found), key=lambda one: order.index(one.type))))

    def not_suspended(self, reason: Reason) -> None:
        """Take the condition Suspended back, if it was ever set."""
        if self.status.condition(ConditionType.SUSPENDED) is not None:
            self.condition(ConditionType.SUSPENDED, False, reason)

    @property
    def attempt(self) -> AttemptStatus | None:
        """The newest attempt, as changed so far."""
        return self.status.attempt

    @property
    def live(self) -> AttemptStatus | None:
        """The newest attempt while it lives."""
        attempt = self.attempt
        return attempt if attempt is not None and attempt.finished_at is None else None

    def change_attempt(self, **fields: Any) -> None:
        """Change the newest attempt."""
        *older, newest = self.status.attempts
        self.update(attempts=(*older, newest.model_copy(update=fields)))

    def add_attempt(self, attempt: AttemptStatus) -> None:
        """Append an attempt, and forget the oldest of too many."""
        self.update(attempts=(*self.status.attempts, attempt)[-KEPT_ATTEMPTS:])

    def decision(self) -> Decision:
        """What came out."""
        after = None if not self._wake else max(timedelta(0), min(self._wake) - self.seen.now)
        return Decision(self.status, tuple(self.actions), after)
