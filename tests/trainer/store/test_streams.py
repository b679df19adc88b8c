"""Names and order of what a run's processes wrote, beside checkpoints that know nothing of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest

from finetune_trainer.store import ObjectStore, RunLog, open_store
from finetune_trainer.store.streams import LAUNCHER, Stream, append, end_of, pieces_of, read_pieces
from small_run import ME, reopened, save

AT = datetime(2026, 11, 27, 12, 15, tzinfo=UTC)


def stream(attempt: int = 1, source: str = "rank-0", start: str = "20261127T121500Z-00000001") -> Stream:
    return Stream(attempt, source, start)


def test_a_stream_is_known_by_its_file_and_by_its_pieces(store: ObjectStore) -> None:
    one = Stream.new(3, "rank-12", AT)
    assert (one.attempt, one.rank, one.begun) == (3, 12, AT)
    assert Stream.of_file(PurePosixPath("/scratch/logs") / one.file) == one
    append(store, one, 0, b"x")
    assert list(pieces_of(store)) == [one]
    assert Stream.new(3, "rank-12", AT) != one


@pytest.mark.parametrize("name", [".rank-0.20261127T121500Z-00000001.log", "torchrun.log", "rank-0.log", "x.txt"])
def test_other_files_are_no_streams(name: str) -> None:
    assert Stream.of_file(PurePosixPath("/scratch/logs/1") / name) is None


def test_streams_come_by_attempt_the_launcher_first_ranks_by_number_and_then_by_start(store: ObjectStore) -> None:
    wanted = [
        stream(2, LAUNCHER),
        stream(2, "rank-2"),
        stream(2, "rank-10"),
        stream(2, "rank-10", "20261127T121501Z-00000000"),
        stream(10, "rank-0"),
    ]
    for one in reversed(wanted):
        append(store, one, 0, b"x")
    store.create("2/rank-0/notes.txt", b"of somebody else")
    assert list(pieces_of(store)) == wanted
    assert list(pieces_of(store, "2/")) == wanted[:-1]


def test_pieces_are_read_in_the_order_in_which_they_were_written(store: ObjectStore) -> None:
    end, written = 0, b""
    for number in range(12):
        written += (data := f"line {number}\n".encode() * 3)
        end = append(store, stream(), end, data)
    assert b"".join(read_pieces(store, pieces_of(store)[stream()])) == written
    assert end_of(store, stream()) == end == len(written)
    assert end_of(store, stream(2)) == 0


def test_who_comes_second_at_an_offset_goes_on_behind_what_is_there(store: ObjectStore) -> None:
    assert append(store, stream(), 0, b"abc") == 3
    assert append(store, stream(), 0, b"abcdef") == 3
    assert append(store, stream(), 3, b"def") == 6
    assert b"".join(read_pieces(store, pieces_of(store)[stream()])) == b"abcdef"


def test_no_sweep_and_no_retention_touches_logs_and_no_log_entry_is_made_of_them(log: RunLog) -> None:
    logs = open_store(f"{log.uri}/logs")
    dead = log.claim(ME, 1)
    save(dead, 1)
    dead.write(dead.new_checkpoint(2), "rank0/state", b"cut short")
    append(logs, stream(1), 0, b"said by the first")
    writer = reopened(log).claim(ME, 2)
    entry = save(writer, 2)
    append(logs, stream(2), 0, b"said by the second")
    assert len(writer.orphans()) == 1
    assert len(writer.sweep()) == 1
    assert writer.retire(entry, keep_last=1) != ()
    assert [one.attempt for one in pieces_of(logs)] == [1, 2]
    assert {found.kind for found in reopened(log).entries()} == {"claim", "checkpoint", "retire"}
