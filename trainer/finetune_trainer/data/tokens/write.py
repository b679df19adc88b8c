"""Writes the token form of a source: reads every record once, stores chunks, then the index that makes them count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune_trainer.data.columns import Refused, Result
from finetune_trainer.data.tokens.find import find_form, form_id
from finetune_trainer.data.tokens.format import (
    CHUNK_BYTES,
    PAGE_ENTRY,
    FormIndex,
    chunk_key,
    encode_directory,
    encode_page,
    index_key,
)
from finetune_trainer.data.tokens.read import TokenForm
from finetune_trainer.store import (
    CorruptObject,
    ObjectExists,
    ObjectRef,
    ObjectStore,
    crc64_hex,
    crc64nvme,
    read_verified,
)


def publish(
    store: ObjectStore, key: str, made_of: dict[str, Any], pages: Iterable[Sequence[Result]], tokens: np.dtype[Any]
) -> TokenForm:
    """Store the form `key` of `pages`, or hand out the one that another publisher was first with.

    `pages`: the results of each chunk of the source's index, in order. `tokens`: how ids are stored.
    Chunks are named by their content: those that a publisher left that crashed are used if they are whole, and those
    that nobody's index names are never read. Raises StorageError where writing fails.
    """
    writer = _ChunkWriter(store, key, made_of, tokens)
    for results in pages:
        writer.add(results)
    index = writer.finished()
    return _name(store, index) or TokenForm(form_id(index), store, index)


def point_to(store: ObjectStore, form: TokenForm) -> None:
    """Let whoever looks for the form in `store` find it where it is."""
    _name(store, form.index.model_copy(update={"root": form.store.uri}))


def _name(store: ObjectStore, index: FormIndex) -> TokenForm | None:
    """Create the index; the form of an earlier one, if any. One that leads to a form that is gone gives way."""
    key, data = index_key(index.key), index.model_dump_json().encode()
    try:
        store.create(key, data)
    except ObjectExists:
        found = find_form(store, index.key)
        if found is not None:
            return found
        store.put(key, data)
    return None


class _ChunkWriter:
    def __init__(self, store: ObjectStore, key: str, made_of: dict[str, Any], tokens: np.dtype[Any]) -> None:
        self._store = store
        self._key = key
        self._made_of = made_of
        self._tokens = tokens
        self._waiting: list[bytes] = []
        self._size = 0
        self._chunks: list[tuple[int, int, str, str]] = []
        self._counts = np.zeros(3, dtype=np.int64)

    def add(self, results: Sequence[Result]) -> None:
        """Take one page, and store the chunk that it completes."""
        page = encode_page(results, self._tokens)
        length = sum(len(p.input_ids) for r in results if not isinstance(r, Refused) for p in r.pieces)
        self._counts += [len(results), length, sum(isinstance(result, Refused) for result in results)]
        self._waiting.append(page)
        self._size += len(page)
        if self._size >= CHUNK_BYTES:
            self._flush()

    def finished(self) -> FormIndex:
        """Store what waits; the index of all chunks."""
        if self._waiting:
            self._flush()
        records, tokens, refused = self._counts.tolist()
        pages, sizes, checksums, directories = zip(*self._chunks, strict=True)
        return FormIndex(
            key=self._key,
            made_of=self._made_of,
            records=records,
            tokens=tokens,
            refused=refused,
            pages=pages,
            sizes=sizes,
            crc64=checksums,
            directories=directories,
        )

    def _flush(self) -> None:
        directory = encode_directory(self._waiting)
        assert len(directory) == PAGE_ENTRY * len(self._waiting)
        data = b"".join([directory, *self._waiting])
        crc64 = crc64_hex(crc64nvme(data))
        _store_chunk(
            self._store, ObjectRef(key=chunk_key(self._key, crc64, len(data)), size=len(data), crc64=crc64), data
        )
        self._chunks.append((len(self._waiting), len(data), crc64, crc64_hex(crc64nvme(directory))))
        self._waiting, self._size = [], 0


def _store_chunk(store: ObjectStore, ref: ObjectRef, data: bytes) -> None:
    """Create the object, or prove the one that is there; a damaged one is replaced, for its name is its content."""
    try:
        store.create(ref.key, data, crc64=int(ref.crc64, 16))
    except ObjectExists:
        try:
            read_verified(store, ref)
        except CorruptObject:
            store.put(ref.key, data)
