"""Held-out records that are among the training records: looked for before the first step, in a bounded part of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.report import SetReport
from finetune_trainer.data.report_read import Amount, Progress, data_report
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECORDS = 10_000
"""Records looked at of each set, the first ones that are trained on: some 10 s; `finetune data report` reads all."""


def find_contamination(
    train: DatasetIndex,
    held_out: Mapping[str, DatasetIndex],
    settings: DataSettings,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress,
) -> tuple[SetReport, list[SetReport]]:
    """Reports of the training data and of every held-out set, whose `overlap` says what both hold.

    Raises what `data_report` does.
    """
    report = data_report(train, held_out, settings, tokenizer, Amount(per_set=RECORDS), progress)
    return report.train, report.eval


def contaminated(found: SetReport) -> int:
    """How many of a held-out set's records equal or resemble a training record."""
    return 0 if found.overlap is None else found.overlap.exact + found.overlap.near


def refuse_contamination(field: str, found: SetReport) -> None:
    """DataError naming some of the records, if there are any."""
    if not contaminated(found) or found.overlap is None:
        return
    pairs = ", ".join(f"{match.record} of {match.earlier}" for match in found.overlap.examples[:3])
    raise DataError(
        f"{field}: {contaminated(found):,} of the {found.total.read:,} records of the held-out set {found.name!r} are "
        f"training records too, or nearly: {pairs}. Take them out of one of the two, or write spec.data.contamination: "
        "Warn to go on"
    )
