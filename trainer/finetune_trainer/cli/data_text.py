"""A data report as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune_trainer.data import DataReport
from finetune_trainer.data.report import Lengths, Match, Measures, SetReport

BAR = 40
"""Characters of the longest bar of a histogram."""


def print_report(report: DataReport, console: Console) -> None:
    """Write the training data, then each held-out set with its overlap, then how the numbers were made."""
    for found in (report.train, *report.eval):
        _print_set(found, report, console)
    rules = report.rules
    console.print(
        f"maxLength {rules.max_length:,}, overlong {rules.overlong}, packing {rules.packing}; near: estimated Jaccard "
        f"similarity of at least {rules.near_threshold:g} of runs of {rules.shingle_tokens} tokens",
        style="dim",
        highlight=False,
    )


def _print_set(found: SetReport, report: DataReport, console: Console) -> None:
    total = found.total
    console.print(Text(f"{found.name}: {_amount(total)}", style="bold"))
    if found.estimated:
        console.print(Text("not everything was read: numbers of the whole are estimates", style="yellow"))
    for table in (_records(found), _problems(found), _histogram(total.lengths)):
        console.print(table)
    console.print(Text(_whole(found)))
    for line in _remarks(found, report):
        console.print(Text(line, style="yellow"), soft_wrap=True)
    for line in _examples(found):
        console.print(Text(line, style="dim"), soft_wrap=True)  # A record's name can be copied or searched for whole.
    console.print()


def _amount(total: Measures) -> str:
    whole = "" if total.read == total.expected else f" of {total.expected:,}"
    return f"{total.read:,}{whole} records read"


def _named(found: SetReport) -> Iterable[tuple[str, Measures]]:
    yield from ((source.uri, source.counts) for source in found.sources)
    if len(found.sources) > 1:
        yield "total", found.total


def _records(found: SetReport) -> Table:
    table = _table("source", "records", "bytes", "read", "tokens", "trained on", "p50", "p90", "p99", "max")
    for name, counts in _named(found):
        lengths = counts.lengths
        amounts = (counts.records, counts.bytes, counts.read, counts.tokens)
        share = f"{counts.kept_tokens:,} ({100 * counts.kept_share:.1f} %)"
        spread = (lengths.p50, lengths.p90, lengths.p99, lengths.max)
        table.add_row(name, *(f"{n:,}" for n in amounts), share, *(f"{n:,}" for n in spread))
    return table


def _problems(found: SetReport) -> Table:
    table = _table("source", "truncated", "split", "dropped", "tokens lost", "bad", "duplicates", "near duplicates")
    for name, counts in _named(found):
        cut = (counts.truncated, counts.split, counts.dropped, counts.lost_tokens, counts.bad)
        table.add_row(name, *(f"{n:,}" for n in (*cut, counts.exact_duplicates, counts.near_duplicates)))
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _histogram(lengths: Lengths) -> Table:
    table = _table("tokens per record", "records")
    table.add_column("")
    most = max((bucket.records for bucket in lengths.histogram), default=1)
    for bucket in lengths.histogram:
        width = -(-bucket.records * BAR // most)
        table.add_row(f"{bucket.first:,} to {bucket.last:,}", f"{bucket.records:,}", "\u2588" * width)
    return table


def _whole(found: SetReport) -> str:
    whole, about = found.whole, "about " if found.estimated else ""
    steps = f", {whole.steps:,} optimizer steps per epoch" if whole.steps is not None else ""
    return f"{about}{whole.tokens:,} tokens in {whole.rows:,} rows, {100 * found.fill:.1f} % full{steps}"


def _remarks(found: SetReport, report: DataReport) -> Iterable[str]:
    total, ratio = found.total, report.rules.max_bad_ratio
    if total.bad > ratio * total.read:
        yield (
            f"{total.bad:,} of {total.read:,} records cannot be used, more than {ratio:g} of them "
            "(spec.data.badRecords.maxRatio): a run would fail; repair them, or raise the ratio"
        )
    overlap = found.overlap
    if overlap and (overlap.exact or overlap.near):
        yield (
            f"{overlap.exact:,} exact and {overlap.near:,} near duplicates of training records: held-out losses will "
            "look better than they are"
        )


def _examples(found: SetReport) -> Iterable[str]:
    for source in found.sources:
        yield from (f"bad: {bad.record}: {bad.reason}" for bad in source.bad_records)
    for source in found.sources:
        yield from _matches(source.duplicates, "")
    if found.overlap:
        yield from _matches(found.overlap.examples, "training record ")


def _matches(matches: Iterable[Match], what: str) -> Iterable[str]:
    for match in matches:
        yield f"{'near duplicate' if match.near else 'duplicate'}: {match.record} of {what}{match.earlier}"
