"""What ranks had copied when they were killed is not lost as long as their node lives: the next start commits it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.leftovers import NAME
from finetune_trainer.staged import ARENA, find_staged
from finetune_trainer.store import Checkpoint, RunLog, open_store
from ranks import RankFailure, run_ranks
from small_job import SmallJob

RUN = "tests/trainer/loop/dying_save.py:run"
SPEC: dict[str, Any] = {"checkpoint": {"everySteps": 4, "keepLast": 20, "keepBest": 0}}


def workers(ranks: int) -> dict[str, Any]:
    return {"workers": {"replicas": ranks, "gpusPerReplica": 0}}


def steps_in_log(job: SmallJob, name: str) -> list[int]:
    log = RunLog(open_store(f"file://{job.folder}/checkpoints"), f"default.{name}")
    for entry in log.checkpoints():
        assert log.verify(entry) == []
    return [entry.step for entry in log.entries() if isinstance(entry, Checkpoint)]


def start(job: Path, memory: Path, ranks: int, **more: Any) -> dict[str, Any]:
    return run_ranks(ranks, RUN, {"job": str(job), "memory": str(memory)} | more)[0]


def killed_storing_step_8(job: SmallJob, name: str, memory: Path, ranks: int, dying_rank: int) -> Path:
    path = job.write(name, **SPEC, **workers(ranks))
    with pytest.raises(RankFailure):
        start(path, memory, ranks, dies=[dying_rank, 8])
    assert steps_in_log(job, name) == [4]
    return path


def phases(found: dict[str, Any]) -> list[str]:
    return [event["name"] for event in found["events"] if event["kind"] == "phase"]


def trained(found: dict[str, Any]) -> list[int]:
    return [event["step"] for event in found["events"] if event["kind"] == "progress"]


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "memory"


@pytest.mark.parametrize(("ranks", "dying_rank"), [(1, 0), (2, 1), (2, 0)])
def test_the_state_of_a_step_that_was_being_stored_is_committed_by_the_next_start(
    ranks: int, dying_rank: int, small_job: SmallJob, memory: Path
) -> None:
    path = killed_storing_step_8(small_job, "killed", memory, ranks, dying_rank)
    found = start(path, memory, ranks)
    assert NAME in phases(found)
    assert trained(found) == list(range(9, 13))
    assert steps_in_log(small_job, "killed") == [4, 8, 12]
    whole = start(small_job.write("whole", **SPEC, **workers(ranks)), memory, ranks)
    assert small_job.metrics("killed") == small_job.metrics("whole")
    assert found["result"]["evalLoss"] == whole["result"]["evalLoss"]


def test_it_is_taken_up_by_another_number_of_ranks(small_job: SmallJob, memory: Path) -> None:
    killed_storing_step_8(small_job, "killed", memory, 2, 1)
    found = start(small_job.write("killed", **SPEC, **workers(1)), memory, 1)
    assert trained(found) == list(range(9, 13))
    assert steps_in_log(small_job, "killed") == [4, 8, 12]


def test_the_next_start_reads_the_state_from_memory_where_the_store_has_nothing_else(
    small_job: SmallJob, memory: Path
) -> None:
    path = killed_storing_step_8(small_job, "killed", memory, 1, 0)
    found = start(path, memory, 1, forbid_reads="/data/8-")
    assert trained(found) == list(range(9, 13))


def test_a_copy_that_was_damaged_is_left_out(small_job: SmallJob, memory: Path) -> None:
    path = killed_storing_step_8(small_job, "killed", memory, 1, 0)
    (share,) = find_staged(memory)
    with (share.place / ARENA).open("r+b") as arena:
        arena.seek(share.note.objects[0].start + 1000)
        flipped = bytes([arena.read(1)[0] ^ 1])
        arena.seek(share.note.objects[0].start + 1000)
        arena.write(flipped)
    found = start(path, memory, 1)
    said = [event["detail"] for event in found["events"] if event.get("name") == NAME]
    assert said[-1] == "step 8 is damaged there and is left out"
    assert trained(found) == list(range(5, 13))


def test_a_share_that_went_with_its_node_makes_the_run_go_on_from_its_last_commit(
    small_job: SmallJob, memory: Path
) -> None:
    path = killed_storing_step_8(small_job, "killed", memory, 2, 1)
    lost = next(share for share in find_staged(memory) if share.note.rank == 1)
    shutil.rmtree(lost.place)
    found = start(path, memory, 2)
    assert NAME not in phases(found)
    assert trained(found) == list(range(5, 13))
    assert steps_in_log(small_job, "killed") == [4, 8, 12]


def test_what_an_older_run_of_the_same_name_left_is_not_taken(small_job: SmallJob, memory: Path) -> None:
    path = killed_storing_step_8(small_job, "killed", memory, 1, 0)
    shutil.rmtree(small_job.folder / "checkpoints")
    found = start(path, memory, 1)
    assert trained(found) == list(range(1, 13))
    assert steps_in_log(small_job, "killed") == [4, 8, 12]
