"""What a report is made of: one JSON-able structure, of which every part but the job may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic.alias_generators import to_camel

from finetune_trainer.metrics import DETAILS_PREFIX, losses_by_set, metrics_by_set
from finetune_trainer.spec import LANGUAGE, OBJECTIVES, ObjectiveType


class Part(BaseModel):
    """A part of a report; members that this version does not know are ignored, so that a newer run can be read."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True
    )


class Step(Part):
    """One optimizer step. `time`: Unix seconds at its end; `seconds`: what it took, `data_seconds` of it waiting.

    `host_bytes`: resident memory of rank 0; `device_bytes`: the most that its GPU's tensors ever took. `metrics`: what
    the objective measures beside the loss.
    """

    step: int
    time: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int = 0
    seconds: float | None = None
    data_seconds: float | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None
    metrics: dict[str, float] = {}


class LabelScores(Part):
    """A classifier on the texts of one label, of which there are `texts`."""

    precision: float
    recall: float
    f1: float
    texts: int


class Labels(Part):
    """A classifier on one set, by label; `confusion`: texts by true and given label, in the order of `labels`."""

    labels: dict[str, LabelScores] = {}
    confusion: list[list[int]] = []


class Evaluation(Part):
    """Held-out loss at a step, of all sets together, and of each; the objective's metrics and what it says of labels,
    by set.
    """

    step: int
    loss: float | None
    sets: dict[str, float | None]
    metrics: dict[str, dict[str, float]] = {}
    labels: dict[str, Labels] = {}


class Event(Part):
    """An entry of the commit log: a `start`, a `checkpoint`, or one found `damaged`. `time`: Unix seconds."""

    kind: Literal["start", "checkpoint", "damaged"]
    time: float
    attempt: int
    step: int | None = None
    bytes: int | None = None


class Metric(Part):
    """One metric of a held-out set: of the model before training, of it with examples in its prompt, of the best answer
    that is the same for every record, and after training.

    `difference`: by how much tuning is better than the better of those before, positive also where less is better,
    and its confidence interval from `low` to `high`; on records that every model answered. `lower_is_better`: None
    where nobody knows which is.
    """

    name: str
    base: float | None = None
    prompted: float | None = None
    constant: float | None = None
    tuned: float | None = None
    lower_is_better: bool | None = False
    difference: float | None = None
    low: float | None = None
    high: float | None = None


class HeldOut(Part):
    """What was measured on one held-out set."""

    name: str
    metrics: tuple[Metric, ...] = ()
    records: int | None = None


class Sample(Part):
    """A held-out prompt, the answer that its record holds, and what the model said: before training, before it with
    examples in its prompt, and after it.
    """

    set: str = ""
    prompt: str
    reference: str | None = None
    base: str | None = None
    prompted: str | None = None
    tuned: str | None = None


class Verdict(Part):
    """Whether training was worth it: `good` is None where that is not known."""

    good: bool | None = None
    title: str
    text: str = ""


class Report(Part):
    """A run up to `written` (Unix seconds). `state`: whether it goes on; `job`: the manifest; `versions`: of packages.

    `audit` is what the run's audit event says, `result` what the finished run returns. `base_losses` are the held-out
    losses before training. `warnings` are findings that a reader must not miss.
    """

    name: str
    run_id: str
    state: Literal["Running", "Finished"] = "Running"
    written: float
    job: dict[str, JsonValue]
    versions: dict[str, str] = {}
    steps: tuple[Step, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    events: tuple[Event, ...] = ()
    total_steps: int | None = None
    percent: float | None = None
    verdict: Verdict | None = None
    held_out: tuple[HeldOut, ...] = ()
    forgetting: tuple[HeldOut, ...] = ()
    samples: tuple[Sample, ...] = ()
    audit: dict[str, JsonValue] = {}
    result: dict[str, JsonValue] = {}
    warnings: tuple[str, ...] = ()

    @property
    def objective(self) -> ObjectiveType:
        """The manifest's."""
        spec: Any = self.job.get("spec") or {}
        return ObjectiveType((spec.get("objective") or {}).get("type", ObjectiveType.SFT))

    @property
    def of_language(self) -> bool:
        """Whether losses are nats per token."""
        return self.objective in LANGUAGE

    @property
    def loss_unit(self) -> str:
        """What losses are, in words."""
        kind = self.objective
        return "nats per trained token" if self.of_language else f"{kind}, mean by {OBJECTIVES[kind].mean}"


def steps_of(records: Iterable[Mapping[str, Any]]) -> tuple[Step, ...]:
    """The optimizer steps in a run's history."""
    found = (record for record in records if "learningRate" in record)
    return tuple(Step.model_validate({**record, "metrics": _further(record)}) for record in found)


def _further(record: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in record.items() if key not in OF_STEPS and isinstance(value, int | float)}


def evaluations_of(records: Iterable[Mapping[str, Any]]) -> tuple[Evaluation, ...]:
    """The evaluations in a run's history; the one at step 0 is of the model before training."""
    return tuple(
        Evaluation(
            step=record["step"],
            loss=record["evalLoss"],
            sets=losses_by_set(record),
            metrics=metrics_by_set(record),
            labels={
                key.removeprefix(DETAILS_PREFIX): Labels.model_validate(one)
                for key, one in record.items()
                if key.startswith(DETAILS_PREFIX)
            },
        )
        for record in records
        if "evalLoss" in record
    )


OF_STEPS = {to_camel(name) for name in Step.model_fields} | {"epoch", "rows", "keptTokens"}
"""Keys of a step's record that every objective has."""
