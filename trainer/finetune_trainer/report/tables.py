"""The tables of a report: evaluation, forgetting, data, and the course of the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.report import words
from finetune_trainer.report.data import Evaluation, HeldOut, Metric, Report


@dataclass(frozen=True)
class Cell:
    """Text of a cell; `tone`: `up` for good news, `down` for bad, empty for neither."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; `numeric`: which columns are numbers."""

    head: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Section:
    """Tables under a title; `id` is its address on the page."""

    id: str
    title: str
    intro: str = ""
    tables: list[Table] = field(default_factory=list)


def sections(report: Report) -> list[Section]:
    """Those that there is data for, in the page's order."""
    found = (_evaluation(report), _forgetting(report), _data(report), _course(report))
    return [section for section in found if section.tables]


def held_out_of(report: Report) -> tuple[HeldOut, ...]:
    """What was measured on the held-out sets; where only losses were, those at step 0 and of the exported step."""
    if report.held_out:
        return report.held_out
    start = next((one for one in report.evaluations if one.step == 0), Evaluation(step=0, loss=None, sets={}))
    exported = report.result.get("exportedStep")
    last = [one for one in report.evaluations if one.step and (exported is None or one.step == exported)]
    if not last:
        return ()
    return tuple(HeldOut(name=name, metrics=tuple(_measured(name, start, last[-1]))) for name in last[-1].sets)


def _measured(name: str, before: Evaluation, after: Evaluation) -> Iterator[Metric]:
    """A set's loss, and what the objective measured on it."""
    yield Metric(name="loss", base=before.sets.get(name), tuned=after.sets[name], lower_is_better=True)
    for metric, value in after.metrics.get(name, {}).items():
        base = before.metrics.get(name, {}).get(metric)
        yield Metric(name=metric, base=base, tuned=value, lower_is_better=None)


def _evaluation(report: Report) -> Section:
    sets = held_out_of(report)
    metrics = [(one.name, metric) for one in sets for metric in one.metrics]
    intro = "Each held-out set before and after training."
    if any(metric.prompted is not None for _, metric in metrics):
        intro += (
            " With examples: the model before training, given examples of the task in its prompt. The gain is over the"
            " better of the two, on the records that all of them answered."
        )
    return Section("evaluation", "Evaluation", intro, [_metrics("set", "gain", metrics)] if metrics else [])


def _forgetting(report: Report) -> Section:
    intro = "Text that the training data has nothing to do with: what rises here was forgotten."
    metrics = [(one.name, metric) for one in report.forgetting for metric in one.metrics]
    return Section("forgetting", "Forgetting", intro, [_metrics("text", "change", metrics)] if metrics else [])


def _metrics(kind: str, last: str, metrics: Sequence[tuple[str, Metric]]) -> Table:
    prompted = any(metric.prompted is not None for _, metric in metrics)
    middle = ("with examples",) if prompted else ()
    rows = []
    for name, metric in metrics:
        cells = [Cell(name), Cell(words.spaced(metric.name)), Cell(words.value(metric.base))]
        cells += [Cell(words.value(metric.prompted))] if prompted else []
        rows.append((*cells, Cell(words.value(metric.tuned)), _gain(metric) if last == "gain" else _change(metric)))
    numeric = (False, False, *[True] * (3 + prompted))
    return Table((kind, "metric", "before", *middle, "after", last), numeric, tuple(rows))


def _gain(metric: Metric) -> Cell:
    """Over the better of the model before training as it was and with examples; green or red only where it is sure."""
    sign = -1.0 if metric.lower_is_better else 1.0
    before = [sign * value for value in (metric.base, metric.prompted) if value is not None]
    if metric.difference is None and (not before or metric.tuned is None):
        return Cell(words.NOTHING)
    gain = metric.difference if metric.difference is not None else sign * (metric.tuned or 0.0) - max(before)
    if metric.low is None or metric.high is None:
        return Cell(words.change(gain), "" if metric.lower_is_better is None else _tone(gain))
    interval = f"{words.change(gain)} ({words.change(metric.low)} to {words.change(metric.high)})"
    return Cell(interval, _tone(gain) if metric.low > 0 or metric.high < 0 else "")


def _change(metric: Metric) -> Cell:
    if metric.base is None or metric.tuned is None:
        return Cell(words.NOTHING)
    moved = metric.tuned - metric.base
    return Cell(words.change(moved), _tone(-moved if metric.lower_is_better else moved))


def _tone(gain: float) -> str:
    return "up" if gain > 0 else "down" if gain < 0 else ""


def _data(report: Report) -> Section:
    """The first block's numbers, as the run's audit has them."""
    found: Any = report.audit.get("dataReport") or {}
    intro = ""
    if found.get("estimated"):
        intro = (
            f"Counted over the first {found['total']['read']:,} of {found['total']['expected']:,} records of an epoch."
        )
    rows = [_source(source) for source in found.get("sources", [])]
    plain: Any = report.audit.get("sources") or []
    head = ("source", "format", "records", "size", "median", "longest", "duplicates", "unusable", "trained")
    if rows:
        return Section("data", "Data", intro, [Table(head, (False, False, *[True] * 7), tuple(rows))])
    rows = [tuple(map(Cell, (one["uri"], str(one["format"]), f"{one['records']:,}"))) for one in plain]
    return Section("data", "Data", intro, [Table(head[:3], (False, False, True), tuple(rows))] if rows else [])


def _source(source: Mapping[str, Any]) -> tuple[Cell, ...]:
    counts = source["counts"]
    lengths = counts["lengths"]
    twice = counts["exactDuplicates"] + counts["nearDuplicates"]
    cells = (
        source["uri"],
        source["format"],
        f"{counts['records']:,}",
        words.size(counts["bytes"]),
        f"{lengths['p50']:,}",
        f"{lengths['max']:,}",
        f"{twice:,}",
        f"{counts['bad']:,}",
        words.percent(counts["keptShare"]),
    )
    return tuple(map(Cell, cells))


def _course(report: Report) -> Section:
    """Every start of the ranks: when, from which step, how many checkpoints it committed, how far it came."""
    rows: list[list[Any]] = []
    at = 0
    for event in report.events:
        if event.kind == "start":
            rows.append([len(rows) + 1, event.attempt, event.time, 0, None, 0])
        elif rows and event.kind == "checkpoint":
            rows[-1][3] += 1
            rows[-1][4] = at = event.step or at
            rows[-1][5] = event.bytes or 0
    cells = [
        tuple(map(Cell, (str(number), str(attempt), words.moment(time), f"{saved:,}", *_last(step, size))))
        for number, attempt, time, saved, step, size in rows
    ]
    head = ("start", "attempt", "at", "checkpoints", "newest at step", "its size")
    numeric = (True, True, False, True, True, True)
    return Section("course", "Starts and checkpoints", "", [Table(head, numeric, tuple(_few(cells)))] if cells else [])


def _last(step: int | None, size: int) -> tuple[str, str]:
    return (
        (words.NOTHING, words.NOTHING) if step is None else (f"{step:,}", words.size(size) if size else words.NOTHING)
    )


def _few(rows: Sequence[tuple[Cell, ...]], most: int = 40) -> Iterable[tuple[Cell, ...]]:
    return rows if len(rows) <= most else [*rows[: most // 2], *rows[-most // 2 :]]
