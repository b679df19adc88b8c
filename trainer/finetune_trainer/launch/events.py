"""The events that rank 0 reports; plain JSON objects with the names that a FineTuneJob's status uses.

Every event has a `kind`. Unknown keys are kept and ignored by readers that do not know them. Losses are nats per token,
durations seconds, `percent` runs from 0 to 100.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

Kind = Literal["phase", "progress", "eval", "checkpoint", "audit", "verdict", "restart", "resize", "result", "failure"]

MERGED: frozenset[str] = frozenset({"progress"})
"""Kinds of which only the newest matters; every other event is delivered in order and never dropped."""

FINAL: frozenset[str] = frozenset({"result", "failure"})
"""Kinds that end a run."""


class PhaseEvent(TypedDict):
    """The run entered a phase, for instance `fetching model`, `indexing data`, `training`, `exporting`."""

    kind: Literal["phase"]
    name: str
    detail: NotRequired[str]
    done: NotRequired[float]
    """Work done and `total` work of this phase in `unit`, for phases that can say so (bytes fetched, records read)."""
    total: NotRequired[float]
    unit: NotRequired[str]
    step: NotRequired[int]
    """The step of the commit from which the phase `resuming` goes on."""
    damaged: NotRequired[int]
    """The step of a commit that the phase sets aside as damaged; `detail` says what is wrong with which object."""
    stepsLost: NotRequired[int]
    """As in a restart event, once it is known where the restarted ranks go on."""


class ProgressEvent(TypedDict):
    """One optimizer step was finished."""

    kind: Literal["progress"]
    step: int
    totalSteps: int
    percent: float
    epoch: float
    loss: float
    tokens: int
    tokensPerSecond: float
    learningRate: NotRequired[float]
    gradNorm: NotRequired[float]
    metrics: NotRequired[dict[str, float]]
    """What the objective measured in this step beside its loss, by name."""
    etaSeconds: NotRequired[float]
    """Seconds to the end as the loop estimates them; a reader that needs it and misses it derives it from `percent`."""


class EvalEvent(TypedDict):
    """Every held-out set was evaluated; `evalLoss` is over all of them, `baseLoss` what it was before training."""

    kind: Literal["eval"]
    step: int
    evalLoss: float
    name: NotRequired[str]
    best: NotRequired[bool]
    baseLoss: NotRequired[float]
    metrics: NotRequired[dict[str, dict[str, float]]]
    """What the objective measured beside its loss, by held-out set and name."""


class CheckpointEvent(TypedDict):
    """A checkpoint was committed to the log."""

    kind: Literal["checkpoint"]
    step: int
    uri: str
    best: NotRequired[bool]
    seconds: NotRequired[float]
    bytes: NotRequired[int]
    stepSeconds: NotRequired[float]
    """The slowest of the last steps: with `seconds`, how long a stop takes to commit."""
    waitedSeconds: NotRequired[float]
    """For how long of `seconds` training had to wait; the rest went on beside it."""


class AuditEvent(TypedDict):
    """What is trained and on what: shown once before the first step. Other keys are rendered as `key: value`."""

    kind: Literal["audit"]


class VerdictEvent(TypedDict):
    """Whether the training was worth it, once the exported model was compared with the one before training."""

    kind: Literal["verdict"]
    verdict: Literal["Improved", "NotImproved"]
    text: str


class RestartEvent(TypedDict):
    """The ranks are being started again after a failure; sent by launchers, not by the loop."""

    kind: Literal["restart"]
    restarts: int
    maxRestarts: int
    reason: str
    message: str
    step: NotRequired[int]
    """The step of the newest commit, from which the ranks go on."""
    stepsLost: NotRequired[int]
    """Steps after the newest commit that restarts of this launch threw away, all restarts together."""


class ResizeEvent(TypedDict):
    """The ranks have committed and are being started again in another number; sent by launchers, not by the loop."""

    kind: Literal["resize"]


class ResultEvent(TypedDict):
    """The run is complete: the dict that `train` returned, sent by the launcher and rendered as a table."""

    kind: Literal["result"]


class FailureEvent(TypedDict):
    """The run, or one rank of it, failed."""

    kind: Literal["failure"]
    exitCode: int
    reason: str
    message: str
    retryable: bool
    rank: NotRequired[int]


Event = (
    PhaseEvent
    | ProgressEvent
    | EvalEvent
    | CheckpointEvent
    | AuditEvent
    | VerdictEvent
    | RestartEvent
    | ResizeEvent
    | ResultEvent
    | FailureEvent
)
