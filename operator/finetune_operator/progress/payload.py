"""Request bodies as changes of a job's report: the trainer's own protocol, and transformers' Kubeflow callback.

The protocol is described in `finetune_trainer.launch.progress`, its events in `finetune_trainer.launch.events`. The
callback (`transformers.integrations.KubeflowCallback`) posts what Kubeflow Trainer's KEP-2779 specifies:
`{"trainerStatus": {"progressPercentage": 45, "estimatedRemainingSeconds": 795, "lastUpdatedTime": "...",
"metrics": [{"name": "loss", "value": "0.23"}, ...]}}`.

A body that breaks the protocol is refused as a whole; a value that makes no sense is left out, so that it cannot take
the commit that was reported beside it with it. `audit` events hold decoded records: nothing of them gets past here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.api.report import Failure
from finetune_operator.api.status import DamagedCheckpoint, OutputStatus
from finetune_operator.progress import values
from finetune_operator.progress.values import INT64_MAX, LONGEST_MESSAGE, LONGEST_TEXT

Event = Mapping[str, Any]

MOST_EVENTS = 1000
"""Events of one body; the trainer sends 200 at most."""

LONGEST_STREAM = 64
"""Characters of a stream's id; the trainer's have 16."""


class Malformed(ValueError):
    """A body that is no report; the message says what was expected."""


@dataclass(frozen=True)
class Change:
    """What one event changes in the report of a job.

    `progress` and `checkpoint` hold fields of `api.status.Progress` and `CheckpointStatus`, only those the event speaks
    of; with `resumed`, `checkpoint` is no new commit but the one that the ranks go on from, or one that is damaged.
    `share` is how much of the run is done (0 to 1), `remaining` the seconds that are left.
    """

    progress: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    output: OutputStatus | None = None
    restarts: int | None = None
    steps_lost: int | None = None
    failure: Failure | None = None
    finished: bool = False
    share: float | None = None
    remaining: float | None = None
    urgent: bool = False
    resumed: bool = False


NOTHING = Change()


@dataclass(frozen=True)
class Batch:
    """One body: changes with their sequence numbers in a stream; without a stream nothing can be a repetition."""

    stream: str | None
    changes: tuple[tuple[int, Change], ...]


def read_report(body: bytes) -> Batch:
    """Read a body of the trainer's protocol. Raises Malformed."""
    request = _document(body)
    stream, events = request.get("stream"), request.get("events")
    if not isinstance(stream, str) or not 0 < len(stream) <= LONGEST_STREAM:
        raise Malformed(f"`stream` must be a text of 1 to {LONGEST_STREAM} characters")
    if not isinstance(events, list) or len(events) > MOST_EVENTS:
        raise Malformed(f"`events` must be a list of at most {MOST_EVENTS} events")
    return Batch(stream, tuple(_numbered(event) for event in events))


def read_kubeflow(body: bytes) -> Batch:
    """Read a body of transformers' Kubeflow callback. Raises Malformed."""
    status = _document(body).get("trainerStatus")
    if status is None:  # allowed by the KEP: other parts of it may come later
        return Batch(None, ())
    metrics = status.get("metrics", []) if isinstance(status, dict) else None
    if not isinstance(metrics, list) or not all(isinstance(one, dict) for one in metrics):
        raise Malformed('`trainerStatus` must be an object with `metrics` like [{"name": "loss", "value": "0.2"}]')
    named = {str(one.get("name")): values.parsed(one.get("value")) for one in metrics[:MOST_EVENTS]}
    share = values.share(status.get("progressPercentage"))
    change = Change(
        progress=_fields(named, _METRICS) | values.percent(share) | {"activity": None},
        share=share,
        remaining=values.remaining(status.get("estimatedRemainingSeconds")),
    )
    return Batch(None, ((0, change),))


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body must be JSON: {error}") from error
    if not isinstance(found, dict):
        raise Malformed("the body must be a JSON object")
    return found


def _numbered(event: object) -> tuple[int, Change]:
    if not isinstance(event, dict):
        raise Malformed("each event must be an object")
    number, kind = event.get("seq"), event.get("kind")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= INT64_MAX:
        raise Malformed("each event must have a `seq`, a number from 1 that rises within its stream")
    if not isinstance(kind, str):
        raise Malformed("each event must have a `kind`, for instance `progress`")
    read = _KINDS.get(kind)
    return number, NOTHING if read is None else read(event)


def _phase(event: Event) -> Change:
    name = values.text(event.get("name"), LONGEST_TEXT)
    if not name or name == "training":
        return Change(progress={"activity": None})
    done, total = values.number(event.get("done")), values.number(event.get("total"))
    known = done is not None and total is not None and 0 <= done <= total and total > 0
    amount = f" ({int(100 * done / total)} %)" if known else ""  # type: ignore[operator]  # `known` is what narrows them
    activity = {"activity": f"{name[: LONGEST_TEXT - len(amount)]}{amount}"}
    where, damaged = _where(event), _damaged(event)
    lost, resumed = values.count(event.get("stepsLost")), bool(where)
    return Change(
        progress=activity | where,
        checkpoint=where | damaged,
        steps_lost=lost,
        urgent=bool(damaged),
        resumed=resumed or bool(damaged),
    )


def _progress(event: Event) -> Change:
    share = values.share(event.get("percent"))
    return Change(
        progress=_fields(event, _STEP) | values.percent(share) | {"activity": None},
        share=share,
        remaining=values.remaining(event.get("etaSeconds")),
    )


def _eval(event: Event) -> Change:
    return Change(progress={"eval_loss": values.decimal(event.get("evalLoss"))})


def _checkpoint(event: Event) -> Change:
    step, uri = values.count(event.get("step")), values.uri(event.get("uri"))
    if step is None:
        return NOTHING
    best = {"best": step} if event.get("best") is True else {}
    latest = {"latest": uri} if uri is not None else {}
    cost = _fields(event, _COST)
    return Change(checkpoint={"step": step} | latest | best | cost, urgent=True)


def _restart(event: Event) -> Change:
    restarts, most = values.count(event.get("restarts")), values.count(event.get("maxRestarts"))
    why = values.text(event.get("reason"), 64)
    if restarts is None:
        return NOTHING
    of = "" if most is None else f" of {most}"
    activity = f"starting the workers again{f' after {why}' if why else ''} (restart {restarts}{of})"
    progress, lost = {"activity": activity} | _where(event), values.count(event.get("stepsLost"))
    return Change(progress=progress, restarts=restarts, steps_lost=lost, urgent=True)


def _resize(event: Event) -> Change:
    return Change(progress={"activity": "starting the workers again, with those that have come"})


def _failure(event: Event) -> Change:
    reason, message = values.text(event.get("reason"), 64), values.text(event.get("message"), LONGEST_MESSAGE)
    code = values.count(event.get("exitCode"))
    return Change(failure=Failure(1 if code is None else code, reason or "Error", message), urgent=True)


def _result(event: Event) -> Change:
    report = event.get("report")
    output = OutputStatus(
        uri=values.uri(event.get("output")),
        report=values.uri(report.get("html") or report.get("audit")) if isinstance(report, dict) else None,
        verdict=values.text(event.get("verdictText") or event.get("verdict"), LONGEST_TEXT) or None,
    )
    return Change(output=output, finished=True, urgent=True)


def _where(event: Event) -> dict[str, int]:
    """The step that ranks go on from, of an event that says so."""
    step = values.count(event.get("step"))
    return {} if step is None else {"step": step}


def _damaged(event: Event) -> dict[str, DamagedCheckpoint]:
    """The commit that a phase sets aside."""
    step, what = values.count(event.get("damaged")), values.text(event.get("detail"), LONGEST_MESSAGE)
    return {} if step is None else {"damaged": DamagedCheckpoint(step=step, message=what)}


def _fields(found: Event, table: Mapping[str, tuple[str, Callable[[object], object]]]) -> dict[str, Any]:
    """The fields of a status that are found; null where a value is none, but for the step, which is never unknown."""
    fields = {name: clean(found[key]) for key, (name, clean) in table.items() if key in found}
    return {name: value for name, value in fields.items() if value is not None or name != "step"}


_STEP: dict[str, tuple[str, Callable[[object], object]]] = {
    "step": ("step", values.count),
    "totalSteps": ("total_steps", values.count),
    "epoch": ("epoch", values.decimal),
    "tokens": ("tokens", values.total),
    "loss": ("loss", values.decimal),
    "tokensPerSecond": ("tokens_per_second", values.count),
}
"""Keys of a progress event, the fields of `api.status.Progress` that they become, and how."""

_COST: dict[str, tuple[str, Callable[[object], object]]] = {
    "bytes": ("bytes", values.total),
    "seconds": ("seconds", values.seconds),
    "stepSeconds": ("step_seconds", values.seconds),
}
"""The same for what a checkpoint event says of what the commit took."""

_METRICS: dict[str, tuple[str, Callable[[object], object]]] = {
    "current_step": ("step", values.count),
    "total_steps": ("total_steps", values.count),
    "current_epoch": ("epoch", values.decimal),
    "loss": ("loss", values.decimal),
    "eval_loss": ("eval_loss", values.decimal),
    "num_tokens": ("tokens", values.total),
    "num_input_tokens_seen": ("tokens", values.total),
    "train_tokens_per_second": ("tokens_per_second", values.count),
}
"""Metrics of transformers' and TRL's trainers that a status has a place for; all others are left out."""

_KINDS: dict[str, Callable[[Event], Change]] = {
    "phase": _phase,
    "progress": _progress,
    "eval": _eval,
    "checkpoint": _checkpoint,
    "restart": _restart,
    "resize": _resize,
    "failure": _failure,
    "result": _result,
}
"""Kinds that change a report; `audit` is none of them, and kinds of later versions are taken and left out."""
