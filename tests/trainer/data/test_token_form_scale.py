"""What it costs to open a token form of 10^9 records, to read a block anywhere in it, and to go on from one."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from finetune_trainer.data import DataState, TrainStream, bijection, copies
from finetune_trainer.data.bijection import permute
from finetune_trainer.data.chunks import ChunkTable, Ints
from finetune_trainer.data.containers import Container
from finetune_trainer.data.encode import Document
from finetune_trainer.data.index import Chunk, DatasetIndex, FileIndex, SourceIndex
from finetune_trainer.data.order import BLOCK_RECORDS, BlockStart, EpochOrder
from finetune_trainer.data.overlong import Fitted
from finetune_trainer.data.stream import BLOCKS_AHEAD
from finetune_trainer.data.tokens.find import find_form, form_key
from finetune_trainer.data.tokens.format import FormIndex, encode_directory, encode_page, index_key
from finetune_trainer.data.tokens.read import TokenForm, TokenReader
from finetune_trainer.spec.data import Format
from finetune_trainer.store import ObjectStore, crc64_hex, crc64nvme, open_store
from finetune_trainer.store.file import FileStore
from small_data import make_tokenizer, settings

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
    reader = TokenReader([form], budget=32 << 20)  # neither form fits
    reader.ahead((form, page, 0) for page in pages)
    place = {"source": 0, "file": 0, "segment": 0, "segment_first": 0, "first": 0, "offset": 0}
    chunk = Chunk(**place, records=RECORDS, size=1, crc64=None)
    found = [reader.take(form, page, chunk, np.arange(RECORDS), "file") for page in pages]
    reader.close()
    return sum(int(outcomes.tokens.lengths.sum()) for outcomes in found)


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


FILES = 4000


def large_index(records: int) -> DatasetIndex:
    """The index of a data set of that many records, in files of equal length."""
    chunks = records // RECORDS // FILES
    file = FileIndex(
        key="",
        size=1,
        version="1",
        container=Container.JSONL,
        digest="",
        records=[RECORDS] * chunks,
        sizes=[1] * chunks,
        crc64=[2**63] * chunks,
    )
    files = tuple(file.model_copy(update={"key": f"{i}.jsonl", "sizes": file.sizes}) for i in range(FILES))
    source = SourceIndex(
        uri="", root="file:///nowhere", format=Format.TEXT, conversations=False, columns={}, weight=1.0, files=files
    )
    return DatasetIndex(sources=(source,))


@pytest.fixture
def permuted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions each call of the bijection computes."""
    sizes: list[int] = []

    def counted(key: bytes, size: int, positions: Ints, *, inverse: bool = False) -> Ints:
        sizes.append(len(positions))
        return permute(key, size, positions, inverse=inverse)

    monkeypatch.setattr(copies, "permute", counted)
    monkeypatch.setattr(bijection, "permute", counted)
    return sizes


@pytest.mark.parametrize("weight", [1.0, 2.5])
@pytest.mark.parametrize("segment", [1, 4, 1000])
def test_a_block_in_the_middle_of_an_epoch_of_10_to_the_9_records_is_computed_alone(
    permuted: list[int], segment: int, weight: float
) -> None:
    chunks = 10**9 // RECORDS
    table = ChunkTable(
        source=np.zeros(chunks, dtype=np.int64),
        segment=np.arange(chunks) // segment,
        records=np.full(chunks, RECORDS),
        size=np.full(chunks, 500_000),
        weights=(weight,),
    )
    order = EpochOrder(table, 0, 0)
    middle = BlockStart(alone=chunks // 2, alone_records=chunks // 2 * RECORDS)
    if segment > 1:
        middle = BlockStart(lanes=chunks // segment // copies.LANES // 2, bound_records=chunks // 2 * RECORDS)
    next(order.blocks(7, middle))  # what the table is asked once
    permuted.clear()
    tracemalloc.start()
    block = next(order.blocks(7, middle))
    uses = [order.next_use(part) for part in block.parts]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert block.records == BLOCK * RECORDS if weight == 1 else block.records > BLOCK_RECORDS - RECORDS
    assert all(0 < use <= 1 for use in uses)
    assert sum(permuted) < 300
    assert peak < 200_000 + 80 * copies.LANES * segment


def test_the_first_batch_after_a_resume_reads_its_own_blocks_of_10_to_the_9_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, permuted: list[int]
) -> None:
    built = large_index(10**9).digested()
    cached = built.model_dump_json().encode()
    assert len(cached) < 70e6  # of 4 million chunks: what is read of the index
    monkeypatch.setattr("finetune_trainer.data.index.content", None)  # nothing is hashed again
    index = DatasetIndex.model_validate_json(cached)
    assert index.id == built.id
    assert index.content_digest(0) == built.content_digest(0)
    store, key = generated(tmp_path, 10**9)
    form = find_form(store, key)
    assert form is not None
    chunks = len(index.table) // 2 // BLOCK * BLOCK
    start = BlockStart(alone=chunks, alone_records=chunks * RECORDS)
    state = DataState(index_id=index.id, block=chunks // BLOCK, start=start, batches=1)
    chosen = settings(max_length=512, global_batch_size=8, epochs=1)
    batches = TrainStream(index, chosen, make_tokenizer(), forms={0: form}).batches(state)
    batch = next(batches)
    batches.close()
    assert batch.tokens > 7 * 512
    assert batch.epoch == pytest.approx(0.5, abs=0.001)
    assert len(store.reads) <= 2 * BLOCK * (BLOCKS_AHEAD + 1)  # a directory and a page for each chunk of a block
    assert sum(permuted) < (BLOCKS_AHEAD + 1) * (2 * BLOCK * RECORDS + copies.AT_ONCE)
