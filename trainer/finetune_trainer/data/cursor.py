"""Reads one segment of a file front to back: a compressed file, or a row group of a Parquet file.

Going on in the middle of a segment decodes it again from its start: the price of compressed files after a resume.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from itertools import islice
from typing import Any

import pyarrow.parquet

from finetune_trainer.data.containers import BYTE_ORDER_MARK, Container, decoded_blocks, is_record, split_lines
from finetune_trainer.data.examples import BadRecord
from finetune_trainer.data.formats import Raw, column_names
from finetune_trainer.data.index import Chunk, FileIndex, SourceIndex
from finetune_trainer.data.scan import CHUNK_RECORDS

Open = Callable[[], io.BufferedReader]


class Cursor:
    """Hands out a segment's records in order; `position` is the number of the next one within the file, from 0.

    `open_file` opens the file at its start.
    """

    def __init__(self, open_file: Open, source: SourceIndex, file: FileIndex, chunk: Chunk) -> None:
        self.position = chunk.segment_first
        if file.container is Container.PARQUET:
            self._records = _rows(open_file, source, chunk.segment)
        else:
            self._records = _lines(open_file, source, file)

    def take(self, first: int, count: int) -> list[Raw]:
        """Records `first` to `first + count - 1`, fewer if the segment ends; those before `first` are skipped."""
        skipped = first - self.position
        records = list(islice(self._records, skipped, skipped + count))
        self.position = first + len(records)
        return records

    def close(self) -> None:
        """Give the file up."""
        self._records.close()


def _lines(open_file: Open, source: SourceIndex, file: FileIndex) -> Generator[Raw]:
    with open_file() as stream:
        lines = split_lines(decoded_blocks(stream, file.container), f"{source.root}/{file.key}")
        for number, line in enumerate(lines):
            record = line if number else line.removeprefix(BYTE_ORDER_MARK)
            if is_record(record):
                yield record


def _rows(open_file: Open, source: SourceIndex, row_group: int) -> Generator[Raw]:
    with (
        open_file() as stream,
        # Without this, the whole row group is read before its first row.
        pyarrow.parquet.ParquetFile(
            stream, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        ) as parquet,
    ):
        present = set(parquet.schema_arrow.names)
        columns = [name for name in column_names(source.format, source.columns) if name in present]
        for batch in parquet.iter_batches(CHUNK_RECORDS, row_groups=[row_group], columns=columns):
            yield from _batch_rows(batch)


def _batch_rows(batch: pyarrow.RecordBatch) -> list[Raw]:
    try:
        return [_without_nulls(row) for row in batch.to_pylist()]
    except (ValueError, OverflowError):  # UnicodeDecodeError among them: Parquet does not check its strings
        return [_row(batch, i) for i in range(batch.num_rows)]


def _row(batch: pyarrow.RecordBatch, i: int) -> Raw:
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[i].as_py()
        except UnicodeDecodeError:
            return BadRecord(f"not valid UTF-8 in the column {name!r}")
        except (ValueError, OverflowError) as error:  # a time that Python has no value for
            return BadRecord(f"the column {name!r} cannot be read: {type(error).__name__}")
    cleaned: dict[str, Any] = _without_nulls(row)
    return cleaned


def _without_nulls(value: Any) -> Any:
    """The value without members that are null: a Parquet struct has the members of all rows, whatever a row gave."""
    if isinstance(value, dict):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
