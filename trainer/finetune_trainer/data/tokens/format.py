"""The bytes of a token form: pages of records, chunk objects of pages, and the index of chunks. All little-endian.

A page holds one chunk of the data set index (`FileIndex.records`), so that a page is read where a chunk would be:

| what | type | |
|---|---|---|
| R, P, T, K, J, bytes per token | uint32[6] | how many of what follows |
| pieces of each record | uint32[R] | 0 for one that is dropped or cannot be used |
| tokens of each piece | uint32[P] | |
| counted | int64[K, 6] | of overlong records: number in the page, then `COUNTED` |
| mask | ceil(T / 8) bytes | bit i of byte i // 8, lowest first: token i is trained |
| tokens | uint16[T] or uint32[T] | |
| refused | J bytes of JSON | number in the page, reason and excerpt of records that cannot be used |
| n, weighted | uint32[2] | these and what follows only where n is above 0 or weighted is 1 |
| targets | float32[R, n] | what each record says besides |
| weights | float32[T] if weighted | how much each token counts |

A chunk object is a directory, uint64[pages, 2] of where each page ends (bytes behind the directory) and its CRC64NVME,
and the pages. Any change is a new `FORM_VERSION`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from finetune_trainer.data.chunks import Ints
from finetune_trainer.data.columns import Outcomes, Pieces, Refused, Result, targets_of, weights_of
from finetune_trainer.data.encode import Document
from finetune_trainer.data.overlong import Fitted
from finetune_trainer.data.row_table import RecordIds
from finetune_trainer.data.rows import IGNORED, Counters
from finetune_trainer.store import crc64nvme

FORM_VERSION = 1
COUNTED = ("truncated", "split", "dropped", "lost_tokens", "empty_pieces")
CHUNK_BYTES = 32 << 20
"""Pages are gathered up to here: large enough for one upload each, small enough to be held while it is made."""
HEADER = 6
PAGE_ENTRY = 16


class FormIndex(BaseModel):
    """A published token form. One entry per chunk object: pages, bytes, CRC64NVME (16 hex digits) of it and of its
    directory.

    `key` is the hash of `made_of`: the source's content and everything its tokens depend on. `records` counts records,
    `tokens` their tokens, `refused` those that cannot be used. `root`: address of the store that holds the form,
    where this is only what leads to it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = FORM_VERSION
    key: str
    made_of: dict[str, Any]
    records: int
    tokens: int
    refused: int
    pages: tuple[int, ...]
    sizes: tuple[int, ...]
    crc64: tuple[str, ...]
    directories: tuple[str, ...]
    root: str | None = None

    @cached_property
    def first_pages(self) -> list[int]:
        """Number of the first page of each chunk, and of all pages."""
        return list(accumulate(self.pages, initial=0))

    def chunk_key(self, number: int) -> str:
        """The chunk object's key: by its content, so that it is never overwritten with another one."""
        return chunk_key(self.key, self.crc64[number], self.sizes[number])


def index_key(key: str) -> str:
    """Where the index of the form `key` lies."""
    return f"{key}/index.json"


def chunk_key(key: str, crc64: str, size: int) -> str:
    """Where a chunk object of the form `key` lies."""
    return f"{key}/{crc64}-{size}.tokens"


def token_type(vocabulary: int) -> np.dtype[Any]:
    """The smallest type that holds the ids of a vocabulary of that many tokens."""
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


def encode_page(results: Sequence[Result], tokens: np.dtype[Any]) -> bytes:
    """The page of these records; its tokens are stored as `tokens`. Raises ValueError for an id beyond that type."""
    fitted = [result.pieces if isinstance(result, Fitted) else () for result in results]
    pieces = [piece for found in fitted for piece in found]
    ids = np.concatenate([np.zeros(0, dtype=np.int32), *(piece.input_ids for piece in pieces)])
    labels = np.concatenate([np.zeros(0, dtype=np.int32), *(piece.labels for piece in pieces)])
    if len(ids) and int(ids.max()) > np.iinfo(tokens).max:
        raise ValueError(f"token {ids.max()} does not fit {tokens}")
    counted = _counted(results)
    refused = [[n, r.reason, r.excerpt] for n, r in enumerate(results) if isinstance(r, Refused)]
    notes = json.dumps(refused).encode() if refused else b""
    header = [len(results), len(pieces), len(ids), len(counted), len(notes), tokens.itemsize]
    columns = [
        np.array([*header, *map(len, fitted), *(len(piece.input_ids) for piece in pieces)], dtype="<u4"),
        counted,
        np.packbits(labels != IGNORED, bitorder="little"),
        ids.astype(tokens),
    ]
    return b"".join([*(column.tobytes() for column in columns), notes, *_extras(results, pieces)])


def _extras(results: Sequence[Result], pieces: Sequence[Document]) -> list[bytes]:
    """Targets and weights; nothing where there are neither, as in the pages of texts and conversations."""
    targets = targets_of([result.targets if isinstance(result, Fitted) else () for result in results])
    weights = weights_of(pieces)
    if targets is None and weights is None:
        return []
    count = 0 if targets is None else targets.shape[1]
    found = [np.array([count, weights is not None], dtype="<u4"), targets, weights]
    return [column.astype(column.dtype.newbyteorder("<")).tobytes() for column in found if column is not None]


def _counted(results: Sequence[Result]) -> NDArray[np.int64]:
    rows = [
        [n, *(getattr(result.counters, name) for name in COUNTED)]
        for n, result in enumerate(results)
        if isinstance(result, Fitted) and result.counters
    ]
    return np.array(rows, dtype="<i8").reshape(-1, 1 + len(COUNTED))


def decode_page(data: bytes | memoryview, numbers: Ints, name: str, first: int) -> Outcomes:
    """What became of the records `numbers` of a page whose checksum was proved; its arrays are parts of the page.

    `name` and `first`: the file of the records, and the number in it of the first one of the page, from 0.
    """
    page = _Columns(data)
    records, pieces, tokens, counted, notes, width = page.take("<u4", HEADER).tolist()
    own = page.take("<u4", records).astype(np.int64)
    lengths = page.take("<u4", pieces).astype(np.int64)
    counters = {n: _counters(row) for n, *row in page.take("<i8", 6 * counted).reshape(-1, 6).tolist()}
    mask = np.unpackbits(page.take("u1", -(-tokens // 8)), count=tokens, bitorder="little").view(np.bool_)
    ids = page.take(f"<u{width}", tokens)
    refused = {n: Refused(reason, excerpt) for n, reason, excerpt in json.loads(page.text(notes) or b"[]")}
    count, weighted = page.take("<u4", 2).tolist() if page.left else (0, 0)
    targets = page.take("<f4", records * count).reshape(records, count) if count else None
    weights = Pieces(page.take("<f4", tokens), lengths) if weighted else None
    names = RecordIds((name,), np.zeros(records, dtype=np.int64), np.arange(first + 1, first + 1 + records))
    whole = Outcomes(names, own, Pieces(ids, lengths), Pieces(mask, lengths), counters, refused, targets, weights)
    return whole if len(numbers) == records else whole.take(numbers)


def page_records(data: bytes | memoryview) -> int:
    """How many records a page holds."""
    return int.from_bytes(data[:4], "little")


class _Columns:
    """Takes arrays off the front of a page."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, kind: str, count: int) -> NDArray[Any]:
        column = np.frombuffer(self._data, dtype=kind, count=count, offset=self._at) if count else np.zeros(0, kind)
        self._at += column.nbytes
        return column

    def text(self, size: int) -> bytes:
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    @property
    def left(self) -> bool:
        return self._at < len(self._data)


def _counters(values: Sequence[int]) -> Counters:
    return Counters(**dict(zip(COUNTED, values, strict=True)))


def encode_directory(pages: Sequence[bytes]) -> bytes:
    """The directory of a chunk object of these pages."""
    ends = np.cumsum([len(page) for page in pages], dtype=np.uint64)
    checksums = np.array([crc64nvme(page) for page in pages], dtype=np.uint64)
    return np.stack([ends, checksums], axis=1).astype("<u8").tobytes()


def decode_directory(data: bytes | memoryview) -> NDArray[np.uint64]:
    """uint64[pages, 2]: where each page ends, in bytes behind the directory, and its CRC64NVME."""
    return np.frombuffer(data, dtype="<u8").reshape(-1, 2)
