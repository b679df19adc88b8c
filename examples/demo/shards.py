"""Records to files as people have them: plain, gzip and zstd JSON lines, and Parquet."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Record = Mapping[str, Any]


def write_shards(folder: Path, records: Sequence[Record], names: Sequence[str]) -> None:
    """Deal `records` out in turn to one file per name; the name's ending says how it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        write_file(folder / name, records[i :: len(names)])


def write_file(path: Path, records: Sequence[Record]) -> None:
    """Write `records` to a `.jsonl`, `.jsonl.gz`, `.jsonl.zst` or `.parquet` file; equal records, equal bytes."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(record) for record in records]), path)
        return
    data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    elif path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
