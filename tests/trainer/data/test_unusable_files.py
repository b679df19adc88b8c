"""Files and formats that cannot be used are refused when they are indexed, by name and with what to do."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data import cached_index, check_formats, list_sources
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Format, ObjectiveType
from finetune_trainer.store import StorageRefused, open_store
from small_data import conversation, index_of, source, write_records


@pytest.mark.parametrize(
    ("record", "objective", "message"),
    [
        (
            {"text": "a"},
            ObjectiveType.SFT,
            "Auto finds Text records in .*a.jsonl, which do not suit objective SFT: write Messages, ShareGPT, Alpaca "
            "or PromptCompletion if they can be read so, or spec.objective.type: CPT",
        ),
        (
            conversation(1),
            ObjectiveType.CPT,
            "Auto finds Messages records in .*a.jsonl, which do not suit objective CPT: write Text if they can be read "
            "so, or spec.objective.type: SFT",
        ),
    ],
)
def test_a_found_format_must_suit_the_objective_whether_the_index_is_cached_or_not(
    tmp_path: Path, record: dict[str, Any], objective: ObjectiveType, message: str
) -> None:
    listed = list_sources([source(write_records(tmp_path / "a.jsonl", [record]))], "spec.data.train")
    cache = open_store(f"file://{tmp_path}/cache")
    other = ObjectiveType.CPT if objective is ObjectiveType.SFT else ObjectiveType.SFT
    for _ in range(2):
        index = cached_index(listed, cache)
        check_formats(listed, index, other)
        with pytest.raises(DataError, match=rf"spec\.data\.train\[0\]\.format: {message}"):
            check_formats(listed, index, objective)


def test_a_glob_that_matches_nothing_shows_what_is_there(tmp_path: Path) -> None:
    write_records(tmp_path / "a.json", [{"text": "a"}])
    with pytest.raises(
        DataError, match=r"spec\.data\.train\[1\]\.uri: no file matches .*\*\.jsonl'.* there are a\.json"
    ):
        index_of(source(tmp_path / "a.json"), source(tmp_path / "*.jsonl"))
    with pytest.raises(DataError, match=f"nothing exists under file://{tmp_path}/none"):
        index_of(source(tmp_path / "none" / "*.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"\n \n", "a.jsonl holds no record"),
        ("a.jsonl.gz", gzip.compress(b""), "a.jsonl.gz holds no record"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 1000)[:-5], "a.jsonl.gz cannot be read: .*truncated"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", "a.jsonl.zst cannot be read"),
        ("a.parquet", b"PAR1" + bytes(40), "a.parquet cannot be read"),
        ("a.parquet", b'{"text": "a"}', "a.parquet is not Parquet as its name says, but plain text"),
        ("a.jsonl", b'[\n{"text": "a"}\n]', r"a.jsonl is a JSON array: .*jq -c '\.\[\]' a.jsonl"),
        ("a.jsonl", "text\nlines\n".encode("utf-16"), "a.jsonl: none of the first records can be read .*UTF-8"),
        ("a.jsonl", b'{"id": 1}', r"spec.data.train\[0\].format: .*a.jsonl has records with the columns id"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"messages": []}',
            "a.jsonl mixes formats: its first records are Messages and Text",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        index_of(source(tmp_path / name))


@contextmanager
def a_user_whom_rights_stop() -> Iterator[None]:
    """Root may read everything, so be nobody for a while."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_that_may_not_be_read_is_named_with_what_to_do() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own may be entered by its user alone
        Path(folder).chmod(0o755)
        path = write_records(Path(folder) / "a.jsonl", [{"text": "a"}])
        path.chmod(0o000)
        message = rf"cannot read {path}: Permission denied; give user \d+ the right to"
        with a_user_whom_rights_stop(), pytest.raises(StorageRefused, match=message):
            index_of(source(path))


def test_a_folder_that_is_named_like_a_data_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(DataError, match=r"spec\.data\.train\[0\]\.uri: no file matches .*a\.jsonl'"):
        index_of(source(tmp_path / "a.jsonl"))


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "a.parquet", [])
    with pytest.raises(DataError, match=r"a\.parquet has no rows"):
        index_of(source(tmp_path / "a.parquet"))


def test_files_of_two_formats_in_one_source_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [{"text": "a"}])
    write_records(tmp_path / "b.jsonl", [conversation(0) | {"text": "b"}])
    with pytest.raises(DataError, match=r"a\.jsonl holds Text records and .*b\.jsonl holds Messages"):
        index_of(source(tmp_path / "*.jsonl"))
    assert index_of(source(tmp_path / "*.jsonl", format_=Format.TEXT)).records == 2


def test_parquet_and_json_lines_in_one_source_are_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [{"text": "a"}])
    write_records(tmp_path / "b.parquet", [{"text": "a"}])
    with pytest.raises(DataError, match=r"names Parquet \(.*b\.parquet\) and JSON lines \(.*a\.jsonl\)"):
        index_of(source(tmp_path / "*"))


def test_a_parquet_file_without_a_column_of_the_named_format_is_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "a.parquet", [{"question": "a", "answer": "b"}])
    with pytest.raises(
        DataError, match=r"a\.parquet has no column 'prompt'.*only answer, question.*train\[0\]\.columns"
    ):
        index_of(source(tmp_path / "a.parquet", format_=Format.PROMPT_COMPLETION))
    renamed = source(tmp_path / "a.parquet", format_=Format.PROMPT_COMPLETION, prompt="question", completion="answer")
    assert index_of(renamed).records == 1
