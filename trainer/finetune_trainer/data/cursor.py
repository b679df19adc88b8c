"""Reads one segment of a file front to back: a compressed file, or a row group of a Parquet file.

Going on in the middle of a segment decodes it again from its start: the price of compressed files after a resume.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice

import pyarrow.parquet

from finetune_trainer.data.containers import BYTE_ORDER_MARK, Container, decoded_blocks, is_record, split_lines
from finetune_trainer.data.formats import Raw, column_names
from finetune_trainer.data.index import Chunk, FileIndex, SourceIndex
from finetune_trainer.data.scan import CHUNK_RECORDS
from finetune_trainer.store import ObjectStore


class Cursor:
    """Hands out a segment's records in order; `position` is the number of the next one within the file, from 0."""

    def __init__(self, store: ObjectStore, source: SourceIndex, file: FileIndex, chunk: Chunk) -> None:
        self.position = chunk.segment_first
        if file.container is Container.PARQUET:
            self._records = _rows(store, source, file, chunk.segment)
        else:
            self._records = _lines(store, source, file)

    def take(self, first: int, count: int) -> list[Raw]:
        """Records `first` to `first + count - 1`, fewer if the segment ends; those before `first` are skipped."""
        skipped = first - self.position
        records = list(islice(self._records, skipped, skipped + count))
        self.position = first + len(records)
        return records

    def close(self) -> None:
        """Give the file up."""
        self._records.close()


def _lines(store: ObjectStore, source: SourceIndex, file: FileIndex) -> Generator[Raw]:
    with store.open(file.key) as stream:
        lines = split_lines(decoded_blocks(stream, file.container), f"{source.root}/{file.key}")
        for number, line in enumerate(lines):
            record = line if number else line.removeprefix(BYTE_ORDER_MARK)
            if is_record(record):
                yield record


def _rows(store: ObjectStore, source: SourceIndex, file: FileIndex, row_group: int) -> Generator[Raw]:
    with store.open(file.key) as stream, pyarrow.parquet.ParquetFile(stream, buffer_size=1 << 20) as parquet:
        present = set(parquet.schema_arrow.names)
        columns = [name for name in column_names(source.format, source.columns) if name in present]
        for batch in parquet.iter_batches(CHUNK_RECORDS, row_groups=[row_group], columns=columns):
            yield from batch.to_pylist()
