"""The status of a FineTuneJob: written by the operator only, one write per reconcile and only when it differs.

A newer operator may have written words that this one does not know; it reads over them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from finetune_operator.api.attempt import AttemptStatus, KnownReason, repeat_offenders
from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.api.values import Brief, Decimal, Long, Text, Time, Total, Uri, brief, known_by, word_or
from finetune_trainer.spec.base import CountOrZero, Part


class Condition(Part):
    """A `metav1.Condition`."""

    type: ConditionType
    """What this is about."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    reason: KnownReason
    """Why, as one word."""

    message: Long = ""
    """Why, for people: what happened, and what to do about it."""

    last_transition_time: Time
    """When `status` last changed."""

    observed_generation: CountOrZero = 0
    """The generation of the spec that this was decided on."""


class Progress(Part):
    """Where the training stands, as rank 0 last reported it."""

    step: CountOrZero = 0
    """Optimizer steps done."""

    total_steps: CountOrZero | None = None
    """Optimizer steps of the whole run; an estimate when the run is limited by epochs."""

    percent: CountOrZero | None = None
    """Share of the run that is done, 0 to 100."""

    epoch: Decimal | None = None
    """Epochs done, as a decimal number."""

    tokens: Total | None = None
    """Tokens trained on, over all attempts."""

    loss: Decimal | None = None
    """Training loss of the last reported step, in nats per token."""

    eval_loss: Decimal | None = None
    """Held-out loss of the last evaluation, in nats per token."""

    tokens_per_second: CountOrZero | None = None
    """Tokens per second over all ranks."""

    estimated_completion_time: Time | None = None
    """When the run ends at the present speed."""

    activity: Text | None = None
    """What the run does besides steps, for instance `indexing the data`."""

    updated_at: Time | None = None
    """When this was reported."""


class WorkerCounts(Part):
    """Worker pods of the current attempt."""

    ready: CountOrZero = 0
    """Worker pods that are ready."""

    desired: CountOrZero = 0
    """Worker pods that the attempt asks for."""

    summary: Annotated[str, Field(max_length=24)] = ""
    """`ready` of `desired`, as `3/4`: a column of `kubectl get` shows one field only."""

    @model_validator(mode="before")
    @classmethod
    def _summarise(cls, members: Any) -> Any:
        if not isinstance(members, dict):
            return members
        return {**members, "summary": f"{members.get('ready', 0)}/{members.get('desired', 0)}"}


class DamagedCheckpoint(Part):
    """A commit whose objects were not as they had been stored."""

    step: CountOrZero
    """Its step."""

    message: Long
    """What is wrong with which object."""


class CheckpointStatus(Part):
    """Commits in the checkpoint log, as rank 0 last reported them."""

    latest: Uri | None = None
    """Address of the run's commit log."""

    best: CountOrZero | None = None
    """Step of the commit with the lowest held-out loss."""

    step: CountOrZero | None = None
    """Step of the newest commit."""

    committed_at: Time | None = None
    """When the newest commit was reported."""

    bytes: Total | None = None
    """Bytes that the newest commit stored."""

    seconds: CountOrZero | None = None
    """Time that the newest commit took, rounded up."""

    step_seconds: CountOrZero | None = None
    """Time of the slowest of the last steps before it, rounded up: a stop waits for the step that runs."""

    damaged: DamagedCheckpoint | None = None
    """The commit that was last found damaged; the run set it aside and went on from an older one."""


class OutputStatus(Part):
    """What came out of the run."""

    uri: Uri | None = None
    """Where the trained model lies."""

    report: Uri | None = None
    """Where the run's report lies."""

    verdict: Text | None = None
    """Whether fine-tuning beat the model before it, by how much and how surely, in a sentence."""


class StopRequest(Part):
    """A stop that the operator has asked the run for; it is answered with a commit, or ended by the deadline."""

    reason: KnownReason
    """Why: `Suspended`, `Deleted`, `ActiveDeadline`."""

    attempt: Annotated[int, Field(ge=1)]
    """The attempt that shall stop."""

    deadline: Time
    """When the attempt is ended whether or not it has committed."""


class FailureCount(Part):
    """How many attempts ended for a reason."""

    reason: Reason
    """The class of the failure."""

    count: CountOrZero
    """Attempts that ended for it since the job was created."""


class Goodput(Part):
    """What the worker pods' time was spent on; GPU-seconds are these times `gpusPerReplica`."""

    allocated_worker_seconds: Total = 0
    """Time that worker pods existed, summed over pods and attempts."""

    productive_worker_seconds: Total = 0
    """The part that was spent on steps that count."""

    lost_to_restarts_worker_seconds: Total = 0
    """The part that was spent on steps after a last commit, which had to be repeated."""


class QueueStatus(Part):
    """Why the job waits, while it waits."""

    name: Annotated[str, Field(max_length=253)] | None = None
    """Kueue's LocalQueue, or the runtime whose `maxRunningJobs` is reached."""

    reason: Text | None = None
    """What it waits for."""

    summary: Brief = ""
    """The beginning of `reason`: Kueue may have much to say, and the columns of `kubectl get` are as wide as it."""

    position: CountOrZero | None = None
    """Jobs ahead of it, where that is known; 0 is next."""

    @model_validator(mode="before")
    @classmethod
    def _summarise(cls, members: Any) -> Any:
        return {**members, "summary": brief(members.get("reason") or "")} if isinstance(members, dict) else members


class JobStatus(Part):
    """Everything that the operator knows of a job and must not forget when it starts anew."""

    observed_generation: CountOrZero = 0
    """The generation of the spec that this status speaks of."""

    phase: Annotated[Phase, word_or(Phase.PENDING)] = Phase.PENDING
    """One word for people, derived from the conditions."""

    start_time: Time | None = None
    """When the first attempt was created."""

    completion_time: Time | None = None
    """When the job succeeded or failed for good."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=8), known_by("type", ConditionType)] = ()
    """Conditions by type."""

    progress: Progress | None = None
    """Where the training stands."""

    workers: WorkerCounts | None = None
    """Worker pods of the current attempt."""

    restarts: CountOrZero = 0
    """Restarts of the workers within the current attempt."""

    checkpoint: CheckpointStatus | None = None
    """Commits in the checkpoint log."""

    output: OutputStatus | None = None
    """What came out of the run."""

    attempts: Annotated[tuple[AttemptStatus, ...], Field(max_length=10)] = ()
    """The last 10 attempts, oldest first."""

    failures: Annotated[tuple[FailureCount, ...], Field(max_length=32), known_by("reason", Reason)] = ()
    """Failed attempts by reason, over all attempts: what the budgets are counted by."""

    stop: StopRequest | None = None
    """A stop that was asked for and is not over yet."""

    active_seconds: CountOrZero = 0
    """Time with pods of the attempts that are over: what `activeDeadlineSeconds` is counted by."""

    goodput: Goodput | None = None
    """What the worker pods' time was spent on."""

    queue: QueueStatus | None = None
    """Why the job waits, while it waits."""

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of this type, if there is one."""
        return next((one for one in self.conditions if one.type == kind), None)

    def holds(self, kind: ConditionType) -> bool:
        """Whether the condition of this type is True."""
        found = self.condition(kind)
        return found is not None and found.status == "True"

    @property
    def finished(self) -> bool:
        """Whether the job has succeeded or failed for good."""
        return self.holds(ConditionType.COMPLETE) or self.holds(ConditionType.FAILED)

    @property
    def offenders(self) -> tuple[str, ...]:
        """Nodes that the pods of a next attempt have to keep off."""
        return repeat_offenders(self.attempts)

    @property
    def attempt(self) -> AttemptStatus | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None
