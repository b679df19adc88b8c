"""What only Parquet does: damaged pages, strings that are no text, and structs with the members of all rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from finetune_trainer.data import Quarantined, TrainStream
from finetune_trainer.data.formats import convert
from finetune_trainer.data.order import SequentialOrder
from finetune_trainer.data.reader import RecordReader
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Format
from small_data import conversation, index_of, make_tokenizer, settings, source, write_records


def raws(path: Path) -> list[Any]:
    """Every record as it is read."""
    index = index_of(source(path))
    order = SequentialOrder(index.table)
    with RecordReader(index) as reader:
        return [record.raw for block in order.blocks() for record in reader.read(block)]


def overwritten(path: Path, place: int, content: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[place : place + len(content)] = content
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("place", "reason"), [(0, "page header"), (100, "snappy")])
def test_damaged_pages_are_an_error_of_the_data_that_names_the_file(tmp_path: Path, place: int, reason: str) -> None:
    path = write_records(tmp_path / "a.parquet", [{"text": f"{i} {'x' * 100}"} for i in range(1000)])
    overwritten(path, len(b"PAR1") + place, b"\xff" * 20)
    assert index_of(source(path)).records == 1000  # the footer is whole
    with pytest.raises(DataError, match=rf"a\.parquet cannot be read: .*{reason}.*; write the file again, or"):
        raws(path)


@pytest.mark.parametrize("place", range(20, 400, 40))
def test_a_damaged_footer_is_an_error_of_the_data_that_names_the_file(tmp_path: Path, place: int) -> None:
    path = write_records(tmp_path / "a.parquet", [{"text": "a"}])
    size = path.stat().st_size
    length = int.from_bytes(path.read_bytes()[-8:-4], "little")
    overwritten(path, size - 8 - length + place, b"\xff" * 40)
    with pytest.raises(DataError, match=r"a\.parquet"):
        raws(path)


def not_text(values: list[bytes]) -> pyarrow.Array:
    """Strings of these bytes, unchecked, as many programs write them."""
    offsets = pyarrow.array([sum(map(len, values[:i])) for i in range(len(values) + 1)], pyarrow.int32())
    return pyarrow.StringArray.from_buffers(len(values), offsets.buffers()[1], pyarrow.py_buffer(b"".join(values)))


def test_rows_that_are_no_utf8_are_quarantined_and_the_others_trained(tmp_path: Path) -> None:
    answers = [b"4: \xff", *(f"{i}: an answer".encode() for i in range(1, 400))]
    prompts = pyarrow.array([f"{i}? " for i in range(400)])
    table = pyarrow.table({"prompt": prompts, "completion": not_text(answers)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    told: list[Quarantined] = []
    index = index_of(source(tmp_path / "a.parquet"))
    stream = TrainStream(index, settings(max_bad_ratio=0.01), make_tokenizer(), on_bad=told.append)
    counters = list(stream.batches())[-1].state.counters
    assert (counters.records, counters.bad, counters.substituted) == (400, 1, 1)
    name = f"file://{tmp_path}/a.parquet#1"
    assert told == [Quarantined(name, "not valid UTF-8 in the column 'completion'", "")]


def test_a_value_that_python_cannot_hold_is_a_bad_record(tmp_path: Path) -> None:
    times = pyarrow.array([0, 2**62], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"text": times}), tmp_path / "a.parquet")
    good, bad = raws(tmp_path / "a.parquet")
    assert "text" in good
    assert "the column 'text' cannot be read" in str(bad)


def calling(name: str, **arguments: Any) -> dict[str, Any]:
    """A conversation that calls the tool `name`, and the tool's definition."""
    properties = {argument: {"type": "string"} for argument in arguments}
    tool = {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    return {"messages": [{"role": "user", "content": "Hi"}, answer], "tools": [tool]}


def test_tool_calls_and_definitions_are_those_of_their_own_row(tmp_path: Path) -> None:
    records = [calling("capital_of", country="France"), calling("clock", zone="UTC", days=["a", None]), conversation(1)]
    path = write_records(tmp_path / "a.parquet", records)
    for raw, record in zip(raws(path), records, strict=True):
        assert raw == record
        lines = json.dumps(record).encode()
        assert convert(raw, Format.MESSAGES, {}) == convert(lines, Format.MESSAGES, {})


def test_a_null_that_json_writes_stays() -> None:
    record = calling("clock", zone=None)
    chat: Any = convert(json.dumps(record).encode(), Format.MESSAGES, {})
    assert chat.messages[1]["tool_calls"][0]["function"]["arguments"] == {"zone": None}
