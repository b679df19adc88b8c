"""Progress events as plain lines of text: for logs, for pipes, and for the parts of the rich view."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from finetune_trainer.context import Answer
from finetune_trainer.launch.events import MERGED
from finetune_trainer.report.audit_facts import facts, sample, share

LINE_INTERVAL = 10.0
"""Seconds between two progress lines, so that the log of a long run stays readable."""


BYTES = ("B", "bytes")


def words(name: str) -> str:
    """Turn a JSON key into words: `tokensPerSecond` -> `tokens per second`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def number(value: object) -> str:
    """Write a number as a reader wants it: counts with separators, losses with four decimals, tiny values with an e."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{value:,.0f}"
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.4f}"


def duration(seconds: float) -> str:
    """Write a time as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """Write a number of bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def line(event: Mapping[str, Any]) -> str:
    """Describe one event; kinds that this version does not know are shown as they are."""
    describe = _LINES.get(str(event.get("kind")), _other)
    return describe(event)


def items(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an event says, nested parts flattened to `part.key`."""
    flat: dict[str, Any] = {}
    for key, value in event.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": part for inner, part in items(value).items()})
        elif key not in ("kind", "seq") and value is not None:
            flat[key] = value
    return flat


def loss_part(event: Mapping[str, Any]) -> str:
    """Write the loss of a progress event; a step without a finite loss was skipped."""
    return f"loss {number(event['loss'])}" if event.get("loss") is not None else "skipped"


def _phase(event: Mapping[str, Any]) -> str:
    text = f"{event.get('name')}"
    if event.get("detail"):
        text += f": {event['detail']}"
    return text + amount(event)


def amount(event: Mapping[str, Any]) -> str:
    """Write how far a phase is: ` (1.2 GB of 3 GB)`, or nothing when it does not say."""
    if event.get("done") is None:
        return ""
    write = size if event.get("unit") in BYTES else number
    unit = "" if event.get("unit") in (None, *BYTES) else f" {event['unit']}"
    total = "" if event.get("total") is None else f" of {write(event['total'])}"
    return f" ({write(event['done'])}{total}{unit})"


def _progress(event: Mapping[str, Any]) -> str:
    percent = f" ({event['percent']:.1f} %)" if event.get("percent") is not None else ""
    parts = [f"step {event.get('step')}/{event.get('totalSteps', '?')}{percent}", loss_part(event)]
    if event.get("tokensPerSecond") is not None:
        parts.append(f"{event['tokensPerSecond']:,.0f} tokens/s")
    if event.get("learningRate") is not None:
        parts.append(f"learning rate {event['learningRate']:.2e}")
    if event.get("gradNorm") is not None:
        parts.append(f"grad norm {number(event['gradNorm'])}")
    parts += [f"{name} {number(value)}" for name, value in event.get("metrics", {}).items()]
    if event.get("etaSeconds") is not None:
        parts.append(f"{duration(event['etaSeconds'])} left")
    return "  ".join(parts)


def _eval(event: Mapping[str, Any]) -> str:
    name = f" ({event['name']})" if event.get("name") else ""
    known = event.get("baseLoss") is not None and event.get("step") != 0
    base = f", before training {number(event['baseLoss'])}" if known else ""
    best = ", best so far" if event.get("best") else ""
    line = f"step {event.get('step')}: held-out loss {held_out_loss(event)}{name}{base}{best}"
    measured = {held: of for held, of in event.get("metrics", {}).items() if of}
    return "\n".join([line, *(f"  {held}: {_listed(of)}" for held, of in measured.items())])


def _listed(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in metrics.items())


def held_out_loss(event: Mapping[str, Any]) -> str:
    """Write the loss of an evaluation."""
    return "not finite" if event.get("evalLoss") is None else number(event["evalLoss"])


def _checkpoint(event: Mapping[str, Any]) -> str:
    much = f" ({size(event['bytes'])}" if event.get("bytes") is not None else ""
    took = f" in {event['seconds']:.1f} s" if event.get("seconds") is not None and much else ""
    best = ", best so far" if event.get("best") else ""
    return f"step {event.get('step')}: checkpoint committed{f'{much}{took})' if much else ''}{best}  {event.get('uri')}"


def _audit(event: Mapping[str, Any]) -> str:
    """Write the audit's facts, and the sample with what is trained between brackets."""
    found = [f"  {title}: {text}" for title, text in facts(event).items()]
    runs = "".join(f"[[{text}]]" if trained else text for text, trained in sample(event))
    return "\n".join(["audit:", *found, *([f"  sample, trained parts in [[ ]]: {runs}"] if runs else [])])


def _result(event: Mapping[str, Any]) -> str:
    return "\n".join(["result:", *(f"  {words(key)}: {part(key, value)}" for key, value in items(event).items())])


def part(key: str, value: object) -> str:
    """Write one item of a result: shares in percent, everything else by `number`."""
    return (share(value) if key.endswith("Share") else "") or number(value)


def _verdict(event: Mapping[str, Any]) -> str:
    return str(event.get("text"))


def _restart(event: Mapping[str, Any]) -> str:
    count = f"restart {event.get('restarts')} of {event.get('maxRestarts')}"
    return f"starting the workers again from the last checkpoint ({count}): {event.get('message')}"


def _resize(event: Mapping[str, Any]) -> str:
    return "starting the workers again from the last checkpoint, with those that have come"


def _failure(event: Mapping[str, Any]) -> str:
    return f"{event.get('reason')}: {event.get('message')}"


def _other(event: Mapping[str, Any]) -> str:
    return "  ".join(f"{words(key)} {number(value)}" for key, value in items(event).items())


_LINES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "phase": _phase,
    "progress": _progress,
    "eval": _eval,
    "checkpoint": _checkpoint,
    "audit": _audit,
    "verdict": _verdict,
    "result": _result,
    "restart": _restart,
    "resize": _resize,
    "failure": _failure,
}


class LineReporter:
    """Writes events as lines, progress at most every `interval` seconds and always the last step.

    It is the reporter of rank 0 when nobody listens, and what `finetune run` shows without a terminal.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        interval: float = LINE_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._interval = interval
        self._clock = clock
        self._shown = float("-inf")
        self._name: object = None

    def report(self, event: Mapping[str, object]) -> Answer:
        """Write the event, unless it only repeats a little later what was just written."""
        repeats = event.get("kind") in MERGED or (event.get("kind") == "phase" and event.get("name") == self._name)
        last = event.get("step") is not None and event.get("step") == event.get("totalSteps")
        now = self._clock()
        if not repeats or last or now - self._shown >= self._interval:
            self._shown = now if repeats else self._shown
            self._write(line(event))
        if event.get("kind") == "phase":
            self._name = event.get("name")
        return Answer()
