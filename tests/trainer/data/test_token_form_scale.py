"""What it costs to open a token form of 10^9 records and to read a block anywhere in it."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from finetune_trainer.data.encode import Document
from finetune_trainer.data.overlong import Fitted
from finetune_trainer.data.tokens.find import find_form, form_key
from finetune_trainer.data.tokens.format import FormIndex, encode_directory, encode_page, index_key
from finetune_trainer.data.tokens.read import TokenForm, TokenReader
from finetune_trainer.store import ObjectStore, crc64_hex, crc64nvme, open_store
from finetune_trainer.store.file import FileStore

RECORDS = 256  # of a page, as `scan.CHUNK_RECORDS`
PAGES = 126  # of a chunk
BLOCK = 16  # pages of a block, as 4096 / 256


@dataclass
class Generated(FileStore):
    """Holds an index; each of its chunk objects is made when a part of it is read."""

    root: Path
    chunk: bytes = b""
    reads: list[int] = field(default_factory=list)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if not key.endswith(".tokens"):
            return super().get(key, start, length)
        data = self.chunk[start:][:length]
        self.reads.append(len(data))
        return data


def generated(folder: Path, records: int) -> tuple[Generated, str]:
    """A form of that many records of 40 tokens, and its key."""
    ids = np.arange(40, dtype=np.int32)
    page = encode_page([Fitted((Document(ids + n, ids + n),)) for n in range(RECORDS)], np.dtype("<u2"))
    directory = encode_directory([page] * PAGES)
    chunks = -(-records // (RECORDS * PAGES))
    facts = {"records": records}
    index = FormIndex(
        key=form_key(facts),
        made_of=facts,
        records=records,
        tokens=40 * records,
        refused=0,
        pages=(PAGES,) * chunks,
        sizes=(len(directory) + PAGES * len(page),) * chunks,
        crc64=tuple(f"{number:016x}" for number in range(chunks)),
        directories=(crc64_hex(crc64nvme(directory)),) * chunks,
    )
    store: ObjectStore = open_store(f"file://{folder}")
    store.create(index_key(index.key), index.model_dump_json().encode())
    return Generated(folder, directory + page * PAGES), index.key


def read_block(form: TokenForm) -> int:
    """The tokens of a block whose pages lie all over the form."""
    pages = np.random.default_rng(0).integers(sum(form.index.pages), size=BLOCK).tolist()
    reader = TokenReader()
    reader.ahead((form, page, 0) for page in pages)
    results = [result for page in pages for result in reader.take(form, page, RECORDS, range(RECORDS))]
    reader.close()
    return sum(len(piece.input_ids) for result in results if isinstance(result, Fitted) for piece in result.pieces)


@pytest.mark.parametrize("records", [10**6, 10**9])
def test_a_block_of_any_form_takes_as_many_reads_as_it_has_pages(tmp_path: Path, records: int) -> None:
    store, key = generated(tmp_path, records)
    began = time.process_time()
    form = find_form(store, key)
    assert form is not None
    assert store.reads == []
    assert read_block(form) == BLOCK * RECORDS * 40
    assert time.process_time() - began < 1
    assert len(store.reads) <= 2 * BLOCK  # a directory and a page
    assert sum(store.reads) < BLOCK * 40_000
    tracemalloc.start()
    found = find_form(store, key)
    assert found is not None
    read_block(found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32e6
