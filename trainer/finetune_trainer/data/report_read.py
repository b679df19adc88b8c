"""Reads a job's data as its run would, and makes the report of it; no training, no GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_trainer.data.block import BlockBuilder, BlockRows
from finetune_trainer.data.encode import encoder_of
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.order import Block, EpochOrder, Order, SequentialOrder
from finetune_trainer.data.outcomes import RecordEncoder, Seen, outcomes_of
from finetune_trainer.data.prefetch import prefetched
from finetune_trainer.data.reader import RawRecord, RecordReader
from finetune_trainer.data.report import DataReport, Rules
from finetune_trainer.data.report_prints import Fingerprints
from finetune_trainer.data.report_tally import Tally
from finetune_trainer.data.settings import DataSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_RECORDS = 1_000_000
"""Records read of the training data, and of each held-out set: 540 MB of fingerprints, minutes of tokenising."""

TRAIN = "train"

BLOCKS_AHEAD = 1

Progress = Callable[[str, int, int], None]
"""Is told the set's name, the records read, and those to read."""


@dataclass(frozen=True)
class Amount:
    """How many records are read: of each source where that is given, and of a set in all."""

    per_source: int | None = None
    per_set: int = MOST_RECORDS


def data_report(
    train: DatasetIndex,
    held_out: Mapping[str, DatasetIndex],
    settings: DataSettings,
    tokenizer: PreTrainedTokenizerBase,
    amount: Amount,
    progress: Progress,
) -> DataReport:
    """The report of epoch 1 of the training data and of one pass over each held-out set, in the order of their runs.

    The same records in the same order as `TrainStream` and `EvalSet` read them, by the same code. Raises DataError for
    a tokenizer that does not fit and for files that cannot be decoded, StorageError where reading fails; never for bad
    records, which are counted.
    """
    passes = [_Pass(TRAIN, train, EpochOrder(train.table, settings.seed, 0), amount, train=True)]
    passes += [_Pass(name, index, SequentialOrder(index.table), amount) for name, index in held_out.items()]
    prints = Fingerprints(sum(one.records for one in passes))
    tallies = [_read(one, settings, tokenizer, prints, progress) for one in passes]
    return DataReport(
        rules=Rules.of(settings),
        train=tallies[0].report(TRAIN),
        eval=[tally.report(one.name, tallies[0]) for one, tally in zip(passes[1:], tallies[1:], strict=True)],
    )


class _Pass:
    """A set, the order that it is read in, and how many records of each of its sources."""

    def __init__(self, name: str, index: DatasetIndex, order: Order, amount: Amount, *, train: bool = False) -> None:
        self.name = name
        self.index = index
        self.order = order
        self.train = train
        most = order.records if amount.per_source is None else amount.per_source
        self._wanted = [min(most, count) for count in order.source_records]
        self._left = self.records = min(sum(self._wanted), amount.per_set)

    def blocks(self) -> Iterator[Block]:
        """The blocks that may hold wanted records."""
        sources = self.index.table.source
        for block in self.order.blocks():
            if self._left and any(self._wanted[sources[part.chunk]] for part in block.parts):
                yield block

    def chosen(self, records: Sequence[RawRecord]) -> list[RawRecord]:
        """Those of a block's records that are wanted; the next call wants fewer."""
        found = []
        for record in records:
            if self._left and self._wanted[record.source]:
                self._wanted[record.source] -= 1
                self._left -= 1
                found.append(record)
        return found


def _read(
    one: _Pass, settings: DataSettings, tokenizer: PreTrainedTokenizerBase, prints: Fingerprints, progress: Progress
) -> Tally:
    train, order = one.train, one.order
    encoder = encoder_of(tokenizer, one.index.rendered_formats, settings)
    records_encoder, builder = RecordEncoder(one.index, settings, encoder), BlockBuilder(settings)
    tally = Tally(one.index, order, settings, prints, train=train)
    read = 0
    with RecordReader(one.index) as reader:

        def build(block: Block) -> tuple[list[Seen], BlockRows]:
            records = reader.read(block)
            shuffled = [records[i] for i in order.shuffle(block)] if train else records
            seen = records_encoder.look(one.chosen(shuffled))
            return seen, builder.build(outcomes_of(seen), substitute=train)

        with closing(prefetched(build, one.blocks(), BLOCKS_AHEAD)) as blocks:
            for _, (seen, rows) in blocks:
                tally.add(seen, rows)
                read += len(seen)
                progress(one.name, read, one.records)
    return tally
