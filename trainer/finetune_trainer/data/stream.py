"""The training stream: global batches of rows in an order that any rank of any world size computes alike."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.audit import Audit, decoded_sample, kept_share
from finetune_trainer.data.block import BlockBuilder, BlockRows
from finetune_trainer.data.budget import BadRecordBudget, OnBad, hopeless
from finetune_trainer.data.columns import Outcomes
from finetune_trainer.data.encode import encoder_of
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.order import Block, BlockStart, EpochOrder, epoch_records
from finetune_trainer.data.outcomes import OutcomeReader, RecordEncoder, outcomes_of
from finetune_trainer.data.pages import UNSHARED, Pages
from finetune_trainer.data.prefetch import prefetched
from finetune_trainer.data.reader import RecordReader
from finetune_trainer.data.report import SetReport
from finetune_trainer.data.report_prints import Fingerprints
from finetune_trainer.data.report_tally import Tally
from finetune_trainer.data.row_table import Part, Rows
from finetune_trainer.data.rows import STATE_VERSION, Counters, DataState, StepBatch
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.tokens.read import TokenForm
from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# One block being read and tokenised, one ready, while a third is trained on.
BLOCKS_AHEAD = 2


@dataclass(frozen=True, slots=True)
class _Point:
    """Behind row `row` of the `rows` rows of a block."""

    block: Block
    row: int
    rows: int

    @property
    def records(self) -> float:
        """Records of the epoch up to here, a block's spread evenly over its rows."""
        return float(self.block.start.records + self.block.records * self.row / self.rows)

    def following(self) -> dict[str, Any]:
        """Where the row after this point stands, as the state says it."""
        block, epoch = self.block, self.block.order.epoch
        if self.row < self.rows:
            return {"epoch": epoch, "block": block.number, "start": block.start, "row": self.row}
        if block.following is not None:
            return {"epoch": epoch, "block": block.number + 1, "start": block.following, "row": 0}
        return {"epoch": epoch + 1, "block": 0, "start": BlockStart(), "row": 0}


class TrainStream:
    """Reads, tokenises and packs the training data ahead of the training.

    `index` says where the records are; `rank` of `world_size` gets its share of every global batch. `on_bad` is called
    once per record that cannot be used, in order, when its block is reached. `forms`, token forms by the number of
    their source, and `pages`, what the node has, change nothing but the time it takes. Raises DataError for a tokenizer
    that does not fit the formats.
    """

    def __init__(
        self,
        index: DatasetIndex,
        settings: DataSettings,
        tokenizer: PreTrainedTokenizerBase,
        rank: int = 0,
        world_size: int = 1,
        *,
        on_bad: OnBad | None = None,
        forms: Mapping[int, TokenForm] | None = None,
        pages: Pages = UNSHARED,
    ) -> None:
        self._index = index
        self._settings = settings
        self._rank = rank
        self._world_size = world_size
        self._encoder = encoder_of(tokenizer, index.rendered_formats, settings)
        self._forms = forms or {}
        self._pages = pages
        self._builder = BlockBuilder(settings)
        self._budget = BadRecordBudget(settings.max_bad_ratio, on_bad)
        self._order = lru_cache(maxsize=2)(lambda epoch: EpochOrder(index.table, settings.seed, epoch))
        self._counters: Counters | None = None
        if not self._records_before[1]:
            raise DataError(
                "spec.data.train: the weights are so small that an epoch has no record: raise them, or give more data"
            )

    def batches(self, state: DataState | None = None) -> Generator[StepBatch]:
        """Global batches from `state` on, or from the beginning; the last one of a run with `epochs` may be short.

        With `max_steps` the epochs go on for ever: the caller stops. Close the iterator to end the background work.
        Raises DataError for bad data and for a state of another data set, StorageError where reading fails.
        """
        state = self._checked(state)
        with self._reader() as reader:
            built = prefetched(lambda block: self._build(reader, block), self._places(state), BLOCKS_AHEAD)
            with closing(built) as blocks:
                yield from self._assembled(state, blocks)

    def audit(self) -> Audit:
        """Counts up to the last batch handed out, or of the first block before there is one; reads that block once."""
        block, report = self._first_block
        counters = self._counters or block.counters.with_rows(*self.first_rows().counts)
        return Audit(
            sources=[source | self._named_form(i) for i, source in enumerate(self._index.report())],
            counters=counters,
            kept_share=kept_share(counters),
            sample=decoded_sample(block.rows.row(0), self._encoder) if len(block.rows) else [],
            report=report,
        )

    def first_rows(self) -> Rows:
        """The rows of the first block of records; reads that block once."""
        return self._first_block[0].rows.whole

    def estimated_batches(self) -> int:
        """Number of global batches of the whole run, as far as the first block's rows tell; exact with `max_steps`."""
        if self._settings.max_steps is not None:
            return self._settings.max_steps
        block, _ = self._first_block
        rows = self._records_before[-1] * len(block.rows) / max(block.counters.records, 1)
        return max(1, -int(-rows // self._settings.global_batch_size))

    def _checked(self, state: DataState | None) -> DataState:
        state = state or DataState(index_id=self._index.id)
        if state.version != STATE_VERSION:
            raise DataError(
                f"the checkpoint's data order has version {state.version}, and this program has {STATE_VERSION}: "
                "continue with the version that wrote it, or start a new run"
            )
        if state.index_id != self._index.id:
            raise DataError(
                "the training data changed since the checkpoint was written: put the old files back, or start a new "
                "run (another name or spec.checkpoint.uri)"
            )
        return state

    def _places(self, state: DataState) -> Iterator[Block]:
        epoch, block, start = state.epoch, state.block, state.start
        while self._settings.epochs is None or epoch < self._settings.epochs:
            yield from self._order(epoch).blocks(block, start)
            epoch, block, start = epoch + 1, 0, None

    def _reader(self) -> OutcomeReader:
        encoder = RecordEncoder(self._index, self._settings, self._encoder)
        return OutcomeReader(self._index, encoder, self._forms, self._pages)

    def _named_form(self, source: int) -> dict[str, str]:
        return {"tokenForm": self._forms[source].id} if source in self._forms else {}

    def _build(self, reader: OutcomeReader, block: Block) -> BlockRows:
        return self._assemble(reader.read(block).take(block.order.shuffle(block)), block)

    def _assemble(self, outcomes: Outcomes, block: Block) -> BlockRows:
        return self._builder.build(outcomes, substitute=True, shuffle=partial(block.order.shuffle_rows, block))

    def _assembled(self, state: DataState, blocks: Iterator[tuple[Block, BlockRows]]) -> Iterator[StepBatch]:
        waiting: list[Part] = []
        missing = size = self._settings.global_batch_size
        reached: _Point | None = None
        barren = Counters()
        for place, block in blocks:
            first, count, state = state.row, len(block.rows), self._entered(state, place, block)
            barren = Counters() if count else barren + block.counters
            trained = state.batches or reached
            if barren.records >= (place.order.records if trained else hopeless(place.order.records)):
                raise self._barren(barren)
            while first < count:
                end = min(count, first + missing)
                waiting.append(Part(block.rows, first, end))
                first, missing, reached = end, missing - (end - first), _Point(place, end, count)
                if not missing:
                    batch = self._batch(Rows(*waiting), state, reached)
                    yield batch
                    state, waiting, missing = batch.state, [], size
            state = state.model_copy(update={"row": 0})
        if waiting and reached:
            yield self._batch(Rows(*waiting), state, reached)

    def _entered(self, state: DataState, place: Block, block: BlockRows) -> DataState:
        """The state with the block's counts, unless the block was entered before the state was saved."""
        if state.row:
            return state
        bad = block.counters.bad + (state.bad_in_epoch if place.number else 0)
        seen = place.start.records + place.records
        self._budget.spend(block, bad, seen, place.order.records, f"epoch {place.order.epoch + 1}")
        return state.model_copy(update={"bad_in_epoch": bad, "counters": state.counters + block.counters})

    def _barren(self, counters: Counters) -> DataError:
        return DataError(
            f"spec.data.train: none of {counters.records} records in a row leaves a token to train: {counters.dropped} "
            f"are longer than spec.data.maxLength ({self._settings.max_length} tokens) and dropped, {counters.bad} "
            "cannot be used; raise spec.data.maxLength, or write Truncate or Split as spec.data.overlong"
        )

    def _batch(self, rows: Rows, state: DataState, reached: _Point) -> StepBatch:
        counted = rows.counts
        counts = {"batches": state.batches + 1, "counters": state.counters.with_rows(*counted)}
        state = state.model_copy(update=reached.following() | counts)
        self._counters = state.counters
        order = reached.block.order
        return StepBatch(
            micro_batches=rows.dealt(self._rank, self._world_size, self._settings.micro_batch_size),
            all_rows=rows,
            kept_tokens=counted.kept_tokens,
            tokens=counted.tokens,
            epoch=order.epoch + reached.records / order.records,
            consumed=self._consumed(state, reached),
            state=state,
        )

    def _consumed(self, state: DataState, reached: _Point) -> float:
        if self._settings.max_steps is not None:
            return min(1.0, state.batches / self._settings.max_steps)
        return (self._records_before[reached.block.order.epoch] + reached.records) / self._records_before[-1]

    @cached_property
    def _records_before(self) -> list[int]:
        """Records before each epoch, and of all of them; of one epoch where `max_steps` ends the run."""
        epochs = range(self._settings.epochs or 1)
        return list(accumulate((epoch_records(self._index.table, epoch) for epoch in epochs), initial=0))

    @cached_property
    def _first_block(self) -> tuple[BlockRows, SetReport | None]:
        """The first block, and what there is to say of its records where they are read themselves."""
        place = next(self._order(0).blocks())
        if self._forms:
            with self._reader() as reader:
                return self._build(reader, place), None
        order, encoder = place.order, RecordEncoder(self._index, self._settings, self._encoder)
        with RecordReader(self._index, self._pages) as raw:
            records = raw.read(place)
        seen = encoder.look([records[i] for i in order.shuffle(place)])
        block = self._assemble(outcomes_of(seen), place)
        tally = Tally(self._index, order, self._settings, Fingerprints(len(seen)), train=True)
        tally.add(seen, block)
        return block, tally.report("train")
