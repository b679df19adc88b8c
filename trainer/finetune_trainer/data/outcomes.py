"""What becomes of a record: the pieces that are trained, or why there are none. A pure function of its content.

Behind `OutcomeReader` it makes no difference whether a record is read and tokenised now (`RecordEncoder`) or was
before (`finetune_trainer.data.tokens`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

from finetune_trainer.data.columns import Outcomes, Refused, Result
from finetune_trainer.data.copies import ChunkPart
from finetune_trainer.data.encode import Document, Encoder
from finetune_trainer.data.examples import BadRecord, Example, Labelled
from finetune_trainer.data.formats import Raw, convert
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.order import Block, Order
from finetune_trainer.data.overlong import fit_length
from finetune_trainer.data.pages import UNSHARED, Pages
from finetune_trainer.data.reader import RawRecord, RecordReader
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.tokens.read import TokenForm, TokenReader

EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Seen:
    """A record as it is read, tokenised and fitted; a step may hold why there is no next one."""

    record: RawRecord
    document: Document | BadRecord
    result: Result


class RecordEncoder:
    """Converts, tokenises and fits records with one tokenizer and one set of settings."""

    def __init__(self, index: DatasetIndex, settings: DataSettings, encoder: Encoder) -> None:
        self._index = index
        self._settings = settings
        self._encoder = encoder

    def look(self, records: Sequence[RawRecord]) -> list[Seen]:
        """What became of each record, with all that is on the way to it."""
        examples = [self._convert(record) for record in records]
        encoded = self._encoder.encode(examples)
        return [Seen(record, found, self._fit(record, found)) for record, found in zip(records, encoded, strict=True)]

    def _convert(self, record: RawRecord) -> Example | BadRecord:
        source = self._index.sources[record.source]
        try:
            example = convert(record.raw, source.format, source.columns)
            labels = self._settings.labels
            return labels.judge(example) if labels is not None and isinstance(example, Labelled) else example
        except BadRecord as error:
            return error

    def _fit(self, record: RawRecord, found: Document | BadRecord) -> Result:
        try:
            if isinstance(found, BadRecord):
                raise found
            return fit_length(found, self._settings.max_length, self._settings.overlong)
        except BadRecord as error:
            return Refused(str(error), _excerpt(record.raw))


class OutcomeReader:
    """Reads blocks of one order, in order; a context manager. For one thread at a time.

    `forms`: token forms by the number of their source; the records of other sources are read and tokenised. `pages`:
    what the node has of either.
    """

    def __init__(
        self,
        index: DatasetIndex,
        encoder: RecordEncoder,
        forms: Mapping[int, TokenForm],
        pages: Pages = UNSHARED,
    ) -> None:
        self._index = index
        self._encoder = encoder
        self._forms = forms
        self._pages = pages
        self._records = RecordReader(index, pages)
        self._tokens = TokenReader(forms.values(), pages=pages)

    def __enter__(self) -> OutcomeReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens.close()
        self._records.__exit__(kind, error, trace)

    def read(self, block: Block) -> Outcomes:
        """The outcomes of a block's records, part by part, before they are shuffled.

        Raises DataError for a file that changed since it was indexed or cannot be decoded, StorageError if it or a
        token form cannot be read.
        """
        order = block.order
        self._pages.enter(order.epoch, block.number)
        prepared = [int(order.table.source[part.chunk]) in self._forms for part in block.parts]
        stored = [part for part, done in zip(block.parts, prepared, strict=True) if done]
        self._tokens.ahead((*self._page(order, part), order.next_use(part)) for part in stored)
        raw = [part for part, done in zip(block.parts, prepared, strict=True) if not done]
        encoded = iter(self._encoder.look(self._records.read_parts(order, raw)))
        parts = [
            self._stored(order, part) if done else outcomes_of(islice(encoded, part.records))
            for part, done in zip(block.parts, prepared, strict=True)
        ]
        self._tokens.done()
        return Outcomes.joined(parts)

    def _page(self, order: Order, part: ChunkPart) -> tuple[TokenForm, int]:
        source = int(order.table.source[part.chunk])
        return self._forms[source], part.chunk - order.table.ranges[source].start

    def _stored(self, order: Order, part: ChunkPart) -> Outcomes:
        chunk = self._index.chunk(part.chunk)
        source = self._index.sources[chunk.source]
        name = f"{source.root}/{source.files[chunk.file].key}"
        return self._tokens.take(*self._page(order, part), chunk, order.selection(part), name)


def outcomes_of(seen: Iterable[Seen]) -> Outcomes:
    """What became of records, without what was on the way."""
    return Outcomes.of((one.record.id, one.result) for one in seen)


def _excerpt(raw: Raw) -> str:
    if isinstance(raw, BadRecord):
        return ""
    text = raw[: 4 * EXCERPT].decode("utf-8", "replace") if isinstance(raw, bytes) else repr(raw)
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."
