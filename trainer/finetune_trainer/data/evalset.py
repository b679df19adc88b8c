"""Held-out data: every record once, in order, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from finetune_trainer.data.block import BlockBuilder, BlockRows
from finetune_trainer.data.budget import BadRecordBudget, OnBad
from finetune_trainer.data.deal import deal
from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.order import Block, SequentialOrder
from finetune_trainer.data.outcomes import OutcomeReader, RecordEncoder
from finetune_trainer.data.prefetch import prefetched
from finetune_trainer.data.rows import Counters, Row, row_counters
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.tokens.read import TokenForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLOCKS_AHEAD = 1


class EvalSet:
    """A named held-out set, made into rows like the training data; bad records are left out, within the same budget.

    `on_bad` is called for each of them in the first pass. `counters` has the counts of the last complete pass.
    `index`: where its records are. `form`: the token form of its source, where there is one.
    """

    def __init__(
        self,
        name: str,
        index: DatasetIndex,
        settings: DataSettings,
        tokenizer: PreTrainedTokenizerBase,
        rank: int = 0,
        world_size: int = 1,
        *,
        on_bad: OnBad | None = None,
        form: TokenForm | None = None,
    ) -> None:
        self.name = name
        self.counters: Counters | None = None
        self.index = index
        self._settings = settings
        self._rank = rank
        self._world_size = world_size
        self._on_bad = on_bad
        self._order = SequentialOrder(index.table)
        encoder = Encoder(tokenizer, index.rendered_formats, train_prompts=settings.train_prompts)
        self._record_encoder = RecordEncoder(index, settings, encoder)
        self._forms = {} if form is None else {0: form}
        self._builder = BlockBuilder(settings)

    def micro_batches(self, batch_size: int) -> Generator[list[Row]]:
        """One pass: this rank's rows, at most `batch_size` at a time; equally many on every rank, some maybe empty.

        Raises DataError over the budget of bad records, StorageError where reading fails.
        """
        budget = BadRecordBudget(self._settings.max_bad_ratio, self._on_bad if self.counters is None else None)
        counters = Counters()
        with OutcomeReader(self.index, self._record_encoder, self._forms) as reader:
            built = prefetched(lambda block: self._build(reader, block), self._order.blocks(), BLOCKS_AHEAD)
            with closing(built) as blocks:
                for _, block in blocks:
                    counters += block.counters + row_counters(block.rows)
                    what = f"the held-out set {self.name!r}"
                    budget.spend(block, counters.bad, counters.records, self._order.records, what)
                    yield from deal(block.rows, self._world_size, batch_size)[self._rank]
        self.counters = counters

    def _build(self, reader: OutcomeReader, block: Block) -> BlockRows:
        return self._builder.build(reader.read(block), substitute=False)
