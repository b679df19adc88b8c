"""Held-out data: every record once, in order, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from finetune_trainer.data.block import BlockBuilder, BlockRows
from finetune_trainer.data.budget import BadRecordBudget, OnBad
from finetune_trainer.data.encode import encoder_of
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.order import Block, SequentialOrder
from finetune_trainer.data.outcomes import OutcomeReader, RecordEncoder
from finetune_trainer.data.pages import UNSHARED, Pages
from finetune_trainer.data.prefetch import prefetched
from finetune_trainer.data.rows import Counters, Row
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.tokens.read import TokenForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLOCKS_AHEAD = 1


class EvalSet:
    """A named held-out set, made into rows like the training data; bad records are left out, within the same budget.

    `on_bad` is called for each of them in the first pass. `counters` has the counts of the last complete pass.
    `index`: where its records are. `forms`: token forms by the number of their source. `pages`, to be set by who knows:
    what the node has. `what`: what it is called in messages.
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
        forms: Mapping[int, TokenForm] | None = None,
    ) -> None:
        self.name = name
        self.index = index
        self.what = f"the held-out set {name!r}"
        self.counters: Counters | None = None
        self.pages: Pages = UNSHARED
        self._settings = settings
        self._rank = rank
        self._world_size = world_size
        self._on_bad = on_bad
        self._order = SequentialOrder(index.table)
        encoder = encoder_of(tokenizer, index.rendered_formats, settings)
        self._record_encoder = RecordEncoder(index, settings, encoder)
        self._forms = forms or {}
        self._builder = BlockBuilder(settings)

    def micro_batches(self, batch_size: int) -> Generator[list[Row]]:
        """One pass: this rank's rows, at most `batch_size` at a time; equally many on every rank, some maybe empty."""
        with closing(self.parts(batch_size)) as parts:
            for micro_batches, _ in parts:
                yield from micro_batches

    def parts(self, batch_size: int) -> Generator[tuple[list[list[Row]], Sequence[Row]]]:
        """One pass, part by part: this rank's micro-batches, as many as every rank's, and the rows of all ranks.

        Raises DataError over the budget of bad records, StorageError where reading fails.
        """
        budget = BadRecordBudget(self._settings.max_bad_ratio, self._on_bad if self.counters is None else None)
        counters = Counters()
        with OutcomeReader(self.index, self._record_encoder, self._forms, self.pages) as reader:
            built = prefetched(lambda block: self._build(reader, block), self._order.blocks(), BLOCKS_AHEAD)
            with closing(built) as blocks:
                for _, block in blocks:
                    rows = block.rows.whole
                    counters += block.counters.with_rows(*rows.counts)
                    budget.spend(block, counters.bad, counters.records, self._order.records, self.what)
                    yield rows.dealt(self._rank, self._world_size, batch_size), rows
        self.counters = counters

    def _build(self, reader: OutcomeReader, block: Block) -> BlockRows:
        return self._builder.build(reader.read(block), substitute=False)
