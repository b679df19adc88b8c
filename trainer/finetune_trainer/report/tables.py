"""The tables of a report: evaluation, forgetting, data, and the course of the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.report import words
from finetune_trainer.report.data import Evaluation, HeldOut, Labels, Metric, Report


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


def whole_sets(report: Report) -> tuple[HeldOut, ...]:
    """What was measured on all records of the held-out sets, at step 0 and at the exported step."""
    start = next((one for one in report.evaluations if one.step == 0), Evaluation(step=0, loss=None, sets={}))
    last = _exported(report)
    if last is None:
        return ()
    return tuple(HeldOut(name=name, metrics=tuple(_measured(name, start, last))) for name in last.sets)


def _exported(report: Report) -> Evaluation | None:
    """The evaluation of what is exported; the newest one while the run goes on."""
    exported = report.result.get("exportedStep")
    found = [one for one in report.evaluations if one.step and (exported is None or one.step == exported)]
    return found[-1] if found else None


def _measured(name: str, before: Evaluation, after: Evaluation) -> Iterator[Metric]:
    """A set's loss, and what the objective measured on it."""
    yield Metric(name="loss", base=before.sets.get(name), tuned=after.sets[name], lower_is_better=True)
    for metric, value in after.metrics.get(name, {}).items():
        base = before.metrics.get(name, {}).get(metric)
        yield Metric(name=metric, base=base, tuned=value, lower_is_better=None)


def _evaluation(report: Report) -> Section:
    compared, whole = (_metrics_of(sets) for sets in (report.held_out, whole_sets(report)))
    intro = "Each held-out set before and after training."
    if any(metric.prompted is not None for _, metric in compared):
        intro += (
            " With examples: the model before training, given examples of the task in its prompt. The gain is over the"
            " better of the two, on the records that all of them answered."
        )
    if any(metric.constant is not None for _, metric in compared):
        intro += (
            " Same answer: what the best answer that is the same for every record comes to. The gain is over the better"
            " of that and the model before training."
        )
    tables = [_metrics("set", "gain", compared)] if compared else []
    if compared and whole and not report.of_language:
        intro += " First the records that were compared one by one, then all of them."
    if whole and (not compared or not report.of_language):
        tables.append(_metrics("whole set" if compared else "set", "gain", whole))
    last = _exported(report)
    for name, labels in last.labels.items() if last is not None else ():
        tables += _labels(name, labels)
    return Section("evaluation", "Evaluation", intro, tables)


def _metrics_of(sets: Iterable[HeldOut]) -> list[tuple[str, Metric]]:
    return [(one.name, metric) for one in sets for metric in one.metrics]


def _labels(name: str, found: Labels) -> Iterator[Table]:
    """How a classifier does on each label of a set, and which it takes for which."""
    head = (f"label in {name}", "texts", "precision", "recall", "F1")
    scores = ((label, (one.texts, one.precision, one.recall, one.f1)) for label, one in found.labels.items())
    yield Table(head, (False, *[True] * 4), tuple(_row(label, values) for label, values in scores))
    if found.confusion:
        given = (f"true in {name}", *(f"given {label}" for label in found.labels))
        counts = zip(found.labels, found.confusion, strict=True)
        yield Table(given, (False, *[True] * len(found.labels)), tuple(_row(label, row) for label, row in counts))


def _row(name: str, numbers: Iterable[float]) -> tuple[Cell, ...]:
    return (Cell(name), *(Cell(words.value(number)) for number in numbers))


def _forgetting(report: Report) -> Section:
    intro = "Text that the training data has nothing to do with: what rises here was forgotten."
    metrics = _metrics_of(report.forgetting)
    return Section("forgetting", "Forgetting", intro, [_metrics("text", "change", metrics)] if metrics else [])


def _metrics(kind: str, last: str, metrics: Sequence[tuple[str, Metric]]) -> Table:
    others = {"prompted": "with examples", "constant": "same answer"}
    middle = {key: head for key, head in others.items() if any(getattr(one, key) is not None for _, one in metrics)}
    rows = []
    for name, metric in metrics:
        cells = [Cell(name), Cell(words.spaced(metric.name)), Cell(words.value(metric.base))]
        cells += [Cell(words.value(getattr(metric, key))) for key in middle]
        rows.append((*cells, Cell(words.value(metric.tuned)), _gain(metric) if last == "gain" else _change(metric)))
    numeric = (False, False, *[True] * (3 + len(middle)))
    return Table((kind, "metric", "before", *middle.values(), "after", last), numeric, tuple(rows))


def _gain(metric: Metric) -> Cell:
    """Over the better of what there was before training; green or red only where it is sure."""
    sign = -1.0 if metric.lower_is_better else 1.0
    before = [sign * value for value in (metric.base, metric.prompted, metric.constant) if value is not None]
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
