"""Which pictures a report has, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from finetune_trainer.report import words
from finetune_trainer.report.data import Event, Report, Step
from finetune_trainer.report.figure import SERIES, Chart

MOST_METRICS = 6
FEWEST = 2
"""Points of a line; of fewer there is no picture."""

UNITS = ((2 * 86400.0, 86400.0, "days"), (2 * 3600.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From which span of seconds on, how many of them are one of a unit, and its name."""

Points = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Key:
    """An entry of a picture's legend: a colour's name, how it is drawn (`line`, `dash` or `dot`), its meaning."""

    colour: str
    shape: str
    text: str


@dataclass(frozen=True)
class Picture:
    """A picture with its words; `axis` says what is along the bottom."""

    title: str
    note: str
    keys: tuple[Key, ...]
    svg: str
    axis: str = "optimizer steps"


def pictures(report: Report) -> list[Picture]:
    """Those that there is data for, the most important first."""
    makers: tuple[Callable[[Report], Picture | None], ...] = (_loss, _sets, _time, _speed, _rate, _norm, _memory)
    first, *others = [make(report) for make in makers]
    return [picture for picture in (first, *_objective(report), *others) if picture is not None]


def _objective(report: Report) -> Iterator[Picture | None]:
    """What the objective measures beside the loss, in training and on the held-out sets."""
    measured = [name for step in report.steps for name in step.metrics]  # a step may have nothing to measure
    measured += [name for one in report.evaluations[:1] for own in one.metrics.values() for name in own]
    for number, name in enumerate(list(dict.fromkeys(measured))[:MOST_METRICS]):
        yield _metric(report, name, f"metric{number}")


def _metric(report: Report, name: str, id_: str) -> Picture | None:
    x, y = _values(report.steps, lambda step: step.metrics.get(name))
    chart, keys = Chart(id_, f"{words.spaced(name)} over optimizer steps"), []
    if len(x) >= FEWEST:
        chart.line(x, _smooth(y, max(1, len(x) // 40)), "main")
        keys.append(Key("main", "line", "training"))
    for number, held_out in enumerate(list(dict.fromkeys(key for one in report.evaluations for key in one.metrics))):
        pairs = [
            (one.step, one.metrics[held_out][name])
            for one in report.evaluations
            if name in one.metrics.get(held_out, {})
        ]
        if pairs and number < len(SERIES) - 1:
            steps, values = [float(step) for step, _ in pairs], [value for _, value in pairs]
            chart.line(steps, values, SERIES[number])
            chart.dots(steps, values, SERIES[number], 4.5)
            keys.append(Key(SERIES[number], "dot", held_out))
    title = words.spaced(name)
    return Picture(title[:1].upper() + title[1:], "", tuple(keys), chart.svg()) if keys else None


def _loss(report: Report) -> Picture | None:
    x, y = _values(report.steps, lambda step: step.loss)
    if len(x) < FEWEST:
        return None
    chart = Chart("loss", "Loss over optimizer steps")
    keys = [Key("main", "line", "training")]
    window = max(1, len(x) // 40)
    if window > 1:
        chart.line(x, y, "faint", linewidth=0.9)
        keys = [Key("main", "line", f"training, mean of {window} steps"), Key("faint", "line", "each step")]
    chart.line(x, _smooth(y, window), "main")
    found = [(one.step, one.loss) for one in report.evaluations if one.loss is not None]
    if found and found[0][0] == 0:
        chart.level(found[0][1], "second")
        keys.append(Key("second", "dash", "held-out, before training"))
    if found:
        steps, losses = [float(step) for step, _ in found], [loss for _, loss in found]
        chart.line(steps, losses, "second")
        chart.dots(steps, losses, "second")
        keys.append(Key("second", "dot", "held-out"))
    return Picture("Loss", report.loss_unit, tuple(keys), chart.svg())


def _sets(report: Report) -> Picture | None:
    names = list(dict.fromkeys(name for one in report.evaluations for name in one.sets))
    if len(names) < FEWEST or len(report.evaluations) < FEWEST:
        return None
    chart = Chart("sets", "Held-out loss of each set over optimizer steps")
    keys = []
    for number, name in enumerate(names[: len(SERIES)]):
        points = [(one.step, loss) for one in report.evaluations if (loss := one.sets.get(name)) is not None]
        x, y = [float(step) for step, _ in points], [loss for _, loss in points]
        chart.line(x, y, SERIES[number])
        chart.dots(x, y, SERIES[number], 4.5)
        keys.append(Key(SERIES[number], "dot", name))
    left_out = len(names) - len(keys)
    note = report.loss_unit + (f"; {left_out} more sets in the table" if left_out else "")
    return Picture("Held-out loss of each set", note, tuple(keys), chart.svg())


def _rate(report: Report) -> Picture | None:
    x, y = _values(report.steps, lambda step: step.learning_rate)
    if len(x) < FEWEST:
        return None
    chart = Chart("rate", "Learning rate over optimizer steps")
    chart.line(x, y, "main")
    chart.axes.set_ylim(bottom=0)
    chart.axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=False)
    chart.axes.yaxis.get_offset_text().set(size=10, color=chart.colour("ink"))
    return Picture("Learning rate", "after warm-up and decay", (), chart.svg())


def _norm(report: Report) -> Picture | None:
    x, y = _values(report.steps, lambda step: step.grad_norm)
    if len(x) < FEWEST:
        return None
    chart = Chart("norm", "Norm of the gradient over optimizer steps")
    chart.line(x, y, "main", linewidth=1.1)
    chart.axes.set_ylim(bottom=0)
    return Picture("Gradient norm", "before clipping", (), chart.svg())


def _speed(report: Report) -> Picture | None:
    pairs = list(zip(report.steps, report.steps[1:], strict=False))
    speeds = [(b.step, (b.tokens - a.tokens) / b.seconds) for a, b in pairs if b.seconds and b.tokens > a.tokens]
    if len(speeds) < FEWEST:
        return None
    x, y = [float(step) for step, _ in speeds], [speed for _, speed in speeds]
    window = max(1, len(x) // 40)
    chart = Chart("speed", "Tokens per second over optimizer steps")
    chart.line(x, _smooth(y, window), "main")
    chart.axes.set_ylim(bottom=0)
    chart.engineering()
    return Picture("Throughput", "tokens per second, all ranks", (), chart.svg())


def _memory(report: Report) -> Picture | None:
    host, device = (_values(report.steps, lambda step, name=name: getattr(step, name)) for name in _MEMORY)  # type: ignore[misc]
    if max(len(host[0]), len(device[0])) < FEWEST:
        return None
    chart = Chart("memory", "Memory of rank 0 over optimizer steps")
    keys = []
    for (x, y), colour, text in ((device, "second", "GPU, peak"), (host, "main", "host")):
        if len(x) >= FEWEST:
            chart.line(x, y, colour)
            keys.append(Key(colour, "line", text))
    chart.axes.set_ylim(0, 1.1 * max(*host[1], *device[1]))
    chart.engineering("B")
    return Picture("Memory", "of rank 0", tuple(keys), chart.svg())


_MEMORY = ("host_bytes", "device_bytes")


def _time(report: Report) -> Picture | None:
    """Steps over the time of day, which shows what restarts cost and when checkpoints were committed."""
    saved = [event for event in report.events if event.kind == "checkpoint" and event.step is not None]
    starts = [event for event in report.events if event.kind == "start"]
    timed = [(step.time, step.step) for step in report.steps if step.time is not None]
    timed = sorted({*timed, *((event.time, event.step or 0) for event in saved)})
    if len(timed) < FEWEST:
        return None
    begin = min([timed[0][0], *(event.time for event in starts)])
    span = timed[-1][0] - begin
    size, unit = next((size, unit) for least, size, unit in UNITS if span >= least)
    chart = Chart("time", "Optimizer steps over time, with restarts and checkpoints")
    keys = _marks(chart, starts, begin, size)
    chart.line([(time - begin) / size for time, _ in timed], [float(step) for _, step in timed], "main")
    if saved:
        places = [(event.time - begin) / size for event in saved]
        chart.dots(places, [float(event.step or 0) for event in saved], "third")
        keys.insert(0, Key("third", "dot", f"checkpoint ({len(saved)})"))
    chart.axes.set_ylim(bottom=0)
    chart.axes.set_xlim(left=0)
    chart.axes.xaxis.set_major_locator(MaxNLocator(5))
    chart.axes.xaxis.set_major_formatter("{x:g}")
    chart.engineering()
    return Picture("Progress", "optimizer steps", tuple(keys), chart.svg(), f"{unit} since the first start")


def _marks(chart: Chart, starts: Sequence[Event], begin: float, size: float) -> list[Key]:
    again = starts[1:]
    for event in again[-100:]:
        chart.axes.axvline((event.time - begin) / size, color=chart.colour("warn"), linewidth=1.1, dashes=(2, 2))
    return [Key("warn", "dash", f"start after an interruption ({len(again)})")] if again else []


def _values(steps: Sequence[Step], pick: Callable[[Step], float | None]) -> Points:
    found = [(float(step.step), float(value)) for step in steps if (value := pick(step)) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _smooth(values: list[float], window: int) -> list[float]:
    """The mean of each value and those around it, `window` of them where there are as many."""
    if window <= 1:
        return values
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    half, last = window // 2, len(values)
    bounds = [(max(0, i - half), min(last, i + half + 1)) for i in range(last)]
    return [(sums[end] - sums[start]) / (end - start) for start, end in bounds]
