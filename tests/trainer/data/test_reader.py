"""What reading a share of the data holds in memory, and which files it keeps open."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from finetune_trainer.data import DatasetIndex, order
from finetune_trainer.data.copies import LANES
from finetune_trainer.data.order import EpochOrder
from finetune_trainer.data.reader import RecordReader
from small_data import index_of, source, write_records


def open_files(folder: Path) -> list[str]:
    """Names of the files below a folder that this process has open."""
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    targets = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [target for target in targets if target.startswith(str(folder))]


def read_epoch(index: DatasetIndex, reader: RecordReader, epoch: int) -> Iterator[list[str]]:
    """Ids of the records of each block."""
    for block in EpochOrder(index.table, 0, epoch).blocks():
        yield [record.id for record in reader.read(block)]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.zst", "parquet"])
def test_a_block_of_a_small_share_holds_what_it_takes_and_not_what_it_reads(tmp_path: Path, suffix: str) -> None:
    random = Random(0)
    path = write_records(tmp_path / f"a.{suffix}", [{"text": random.randbytes(2000).hex()} for _ in range(12_000)])
    index = index_of(source(path, weight=0.01))
    with RecordReader(index) as reader:
        tracemalloc.start()
        records = reader.read(next(EpochOrder(index.table, 0, 0).blocks()))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(records) == 120
    assert peak < 24e6  # of 48e6 bytes read, and eight chunks of 1e6 bytes at a time


@pytest.mark.parametrize("weight", [0.1, 1.0, 1.25])
def test_files_that_are_read_front_to_back_are_closed_behind_their_last_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    monkeypatch.setattr(order, "BLOCK_RECORDS", 32)
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 4)
    for i in range(60):
        suffix = ("jsonl.gz", "jsonl.zst")[i % 2]
        write_records(tmp_path / f"{i}.{suffix}", [{"text": f"{i} {n}"} for n in range(40)])
    index = index_of(source(tmp_path / "*", weight=weight))
    seen: Counter[str] = Counter()
    with RecordReader(index) as reader:
        for epoch in range(4):
            for ids in read_epoch(index, reader, epoch):
                seen.update(ids)
                assert len(open_files(tmp_path)) <= LANES
            assert open_files(tmp_path) == []
    assert seen.total() == 4 * weight * 2400
