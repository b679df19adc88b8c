"""What the stream hands out: rows of tokens, global batches of them, and the state to go on from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from finetune_trainer.data.order import BlockStart

RecordId = str
"""`<uri of the file>#<n>`: the file's n-th record, from 1; blank lines are no records."""

IGNORED = -100
"""Label of a token that is not trained: the `ignore_index` of torch's and transformers' cross-entropy."""

STATE_VERSION = 1
"""Goes up whenever the order of records or the packing changes, so that an old state is refused, not misread."""


Tokens = NDArray[np.integer[Any]]
"""Token ids of whatever integer type they were stored in: uint16, uint32 or int32."""


@dataclass(slots=True)
class Row:
    """One training row of L tokens without padding: one document, or several packed ones.

    `tokens` [L]: the ids, as they were stored; `trained` bool[L]: which of them are trained, never the first of a
    document, so that no document is predicted from the one before; `lengths`: the tokens of each document, in order.
    What a model takes is made of these where it is asked for (`input_ids`, `labels`, `position_ids`, `collate`): a rank
    sees the rows of all ranks and computes its own. Nothing of it is changed; it is not frozen because a frozen one
    takes four times as long to make.
    `records`: one id per document, in row order; the two documents of a pair, chosen and rejected, stand side by side.
    `targets` float32[documents, n]: what the record says of each document, where its format says anything (a margin, a
    judgement); NaN where it left that out. `weights` float32[L]: how much each label counts, where they differ.
    """

    tokens: Tokens
    trained: NDArray[np.bool_]
    lengths: tuple[int, ...]
    records: tuple[RecordId, ...]
    targets: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None

    @property
    def input_ids(self) -> NDArray[np.int32]:
        """int32[L]."""
        return self.tokens.astype(np.int32, copy=False)

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32[L]: the token itself where it is trained, else -100; not shifted."""
        labels = self.tokens.astype(np.int32)
        labels[~self.trained] = IGNORED
        return labels

    @property
    def position_ids(self) -> NDArray[np.int32]:
        """int32[L]: starts at 0 again in every document."""
        lengths = np.array(self.lengths, dtype=np.int32)
        before = np.cumsum(lengths, dtype=np.int32) - lengths
        return np.arange(len(self), dtype=np.int32) - np.repeat(before, lengths)

    @property
    def kept_tokens(self) -> int:
        """Number of trained tokens; no first token is among them, so it is the same before and after the shift."""
        return int(np.count_nonzero(self.trained))

    @property
    def kept_weights(self) -> NDArray[np.float32]:
        """The weight of each trained token, float32[kept_tokens]."""
        if self.weights is None:
            return np.ones(self.kept_tokens, dtype=np.float32)
        return np.asarray(self.weights[self.trained], dtype=np.float32)

    @property
    def kept_weight(self) -> float:
        """The sum of the trained tokens' weights."""
        return float(self.kept_tokens if self.weights is None else self.kept_weights.sum(dtype=np.float64))

    def __len__(self) -> int:
        return len(self.tokens)


class Counters(BaseModel):
    """What became of the records so far; only ever grows.

    `records`: seen, bad ones included. `documents`: trained documents, a piece of a split record counting as one.
    `tokens`, `kept_tokens`: of the rows handed out, padding excluded. `truncated`, `split`, `dropped`: records longer
    than `maxLength`, by what was done about them. `lost_tokens`: cut off, or in dropped records and pieces.
    `empty_pieces`: pieces of split records without a trained token. `bad`, `substituted`: records that could not be
    used, replaced by another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: int = 0
    documents: int = 0
    tokens: int = 0
    kept_tokens: int = 0
    truncated: int = 0
    split: int = 0
    dropped: int = 0
    lost_tokens: int = 0
    empty_pieces: int = 0
    bad: int = 0
    substituted: int = 0

    def with_rows(self, documents: int, tokens: int, kept_tokens: int) -> Counters:
        """These, and what is counted per row."""
        added = {"documents": self.documents + documents, "tokens": self.tokens + tokens}
        return self.model_copy(update={**added, "kept_tokens": self.kept_tokens + kept_tokens})

    def __add__(self, other: Counters) -> Counters:
        more = vars(other)
        return Counters(**{name: count + more[name] for name, count in vars(self).items()})


class DataState(BaseModel):
    """Where the stream stands after a global batch: JSON of less than 1 KB, the same on every rank of any world size.

    The next row is row `row` of block `block` of epoch `epoch`, which begins at `start`: computed anew, which takes the
    longer the more blocks there are before it, in a state that was written without. `batches` counts global batches
    handed out, `bad_in_epoch` the bad records of this epoch's blocks so far. `index_id` names the data set that the
    positions refer to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = STATE_VERSION
    index_id: str
    epoch: int = 0
    block: int = 0
    start: BlockStart | None = None
    row: int = 0
    batches: int = 0
    bad_in_epoch: int = 0
    counters: Counters = Counters()


@dataclass(frozen=True)
class StepBatch:
    """This rank's share of one global batch, and what every rank knows about the whole of it.

    `micro_batches` has the same length on every rank; an empty list in it is a micro-batch of weight zero.
    `all_rows` are the rows of all ranks, in the same order on each, made where they are looked at; `global_rows` counts
    them, `kept_tokens` and `tokens` their trained and all tokens, padding excluded. `epoch`: epochs done after this
    batch, fractional. `consumed`: share of all records of all epochs done after it, in [0, 1]; of all steps with
    `maxSteps`. `state` is the state after this batch.
    """

    micro_batches: list[list[Row]]
    all_rows: Sequence[Row]
    kept_tokens: int
    tokens: int
    epoch: float
    consumed: float
    state: DataState

    @property
    def global_rows(self) -> int:
        """Number of rows of all ranks."""
        return len(self.all_rows)

    @property
    def rows(self) -> list[Row]:
        """This rank's rows, micro-batch by micro-batch."""
        return list(chain.from_iterable(self.micro_batches))

    def samples(self) -> list[RecordId]:
        """Ids of the records in this rank's rows."""
        return record_ids(self.rows)


def joined(rows: Sequence[Row]) -> Row:
    """One row of the documents of several rows without targets and weights."""
    return Row(
        np.concatenate([row.tokens for row in rows]),
        np.concatenate([row.trained for row in rows]),
        tuple(chain.from_iterable(row.lengths for row in rows)),
        tuple(chain.from_iterable(row.records for row in rows)),
    )


def documents_of(row: Row, each: int = 1) -> list[Row]:
    """The documents of a row, `each` of them in a row of their own."""
    if len(row.lengths) <= each:
        return [row]
    ends = [0, *accumulate(row.lengths)]
    parts = [slice(first, first + each) for first in range(0, len(row.lengths), each)]
    cuts = [slice(start, end) for start, end in pairwise([*ends[:-1:each], len(row)])]
    return [
        Row(
            row.tokens[cut],
            row.trained[cut],
            row.lengths[part],
            row.records[part],
            targets=None if row.targets is None else row.targets[part],
            weights=None if row.weights is None else row.weights[cut],
        )
        for cut, part in zip(cuts, parts, strict=True)
    ]


def count_documents(rows: Iterable[Row]) -> int:
    """Number of documents in `rows`."""
    return sum(len(row.records) for row in rows)


def document_targets(rows: Sequence[Row], width: int) -> NDArray[np.float32]:
    """The targets of the documents in `rows`, in order, float32[documents, width]; of rows that have any."""
    found = [row.targets for row in rows if row.targets is not None]
    return np.concatenate([np.zeros((0, width), dtype=np.float32), *found])


def record_ids(rows: Iterable[Row]) -> list[RecordId]:
    """Ids of every document in `rows`, in order."""
    return [record for row in rows for record in row.records]
