"""An elastic run on a Ray cluster whose nodes go and come: the same steps on the same rows, in other shares."""

from __future__ import annotations

import itertools
import json
import os
import signal
from typing import Any

import pytest

from finetune_trainer.commit import HISTORY
from finetune_trainer.launch.elastic import STEADY_SECONDS, Growth, Resize, rank_range, room
from finetune_trainer.metrics import unpack
from finetune_trainer.spec import parse_job
from finetune_trainer.store import Checkpoint, RunLog, open_store
from launch_job import manifest, rest, run_command, until, until_event
from ray_nodes import ray_nodes
from small_job import SmallJob, make_small_job

EVERY = 50
ELASTIC: dict[str, Any] = {
    "training": {
        "maxSteps": 100_000,  # it is stopped: how fast nodes come decides how many steps it takes
        "globalBatchSize": 4,
        "microBatchSize": 1,
        "schedule": {"type": "Constant", "warmupRatio": 0},
    },
    "checkpoint": {"everySteps": EVERY},
    "evaluation": None,
    "workers": {"replicas": 2, "minReplicas": 1, "gpusPerReplica": 0},
}
COUNTED = ("step", "tokens", "keptTokens", "epoch", "learningRate")


def test_the_fewest_and_most_ranks_follow_from_the_replicas() -> None:
    def ranks_of(workers: dict[str, Any]) -> tuple[int, int]:
        document = manifest(training={"maxSteps": 1, "globalBatchSize": 64, "learningRate": 1e-3}, workers=workers)
        return rank_range(parse_job(json.dumps(document)))

    assert ranks_of({"replicas": 4, "minReplicas": 2, "gpusPerReplica": 8}) == (16, 32)
    assert ranks_of({"replicas": 4, "gpusPerReplica": 0}) == (4, 4)


def test_room_is_what_fits_of_every_resource() -> None:
    assert room({"CPU": 8.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}) == 1
    assert room({"CPU": 1.9999999999}, {"CPU": 1.0}) == 2  # Ray's sums are not exact
    assert room({}, {"GPU": 1.0}) == 0


def test_growth_waits_for_a_whole_replica_that_stays_and_for_ranks_that_train() -> None:
    now = [0.0]
    growth = Growth(8, lambda: now[0])
    assert not growth.due(8, training=True)
    now[0] = STEADY_SECONDS / 2
    assert not growth.due(7, training=True)  # it went again
    assert not growth.due(8, training=True)
    now[0] += STEADY_SECONDS - 1
    assert not growth.due(16, training=True)
    now[0] += 1
    assert not Growth(8, lambda: now[0]).due(16, training=False)
    assert growth.due(16, training=True)
    assert not growth.due(16, training=True)  # asked for once


def test_a_resize_is_asked_for_once_and_taken_once() -> None:
    resize = Resize()
    assert not resize.take()
    resize.ask()
    assert resize.asked and resize.take()
    assert not resize.asked and not resize.take()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_become_fewer_with_a_lost_node_and_more_with_a_new_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    job = make_small_job(tmp_path_factory.mktemp("elastic"))
    with ray_nodes(2) as nodes:
        path = job.write("elastic", **ELASTIC)
        with run_command(path, "--address", nodes.address) as process:
            events = until_event(process, lambda event: event.get("step", 0) > EVERY)
            nodes.kill()
            events += until(process, "restart")
            events += until(process, "progress")
            nodes.add()
            events += until(process, "resize")
            before = max(event["step"] for event in events[events.index(at(events, "restart")) :] if "step" in event)
            went_on = until(process, "progress")[-1]
            os.killpg(process.pid, signal.SIGINT)
            more, err = rest(process)
    assert process.returncode == 15, (events[-5:], more[-5:], err)
    assert 0 <= at(events, "restart")["stepsLost"] <= EVERY + 10
    assert [event for event in more if event["kind"] == "restart"] == []
    assert went_on["step"] >= before, "what was trained before ranks were added is kept"
    assert sizes(job) == [2, 1, 2]

    elastic = history(job)
    training = {"maxSteps": elastic[-1]["step"]}
    whole = job.write("whole", **ELASTIC | {"training": ELASTIC["training"] | training, "workers": {"replicas": 2}})
    with run_command(whole, "--launcher", "torchrun") as process:
        rest(process)
    undisturbed = [record for record in job.metrics("whole") if "loss" in record]
    assert [counts(record) for record in elastic] == [counts(record) for record in undisturbed]
    assert [record["loss"] for record in elastic] == pytest.approx([r["loss"] for r in undisturbed], abs=2e-3)


def counts(record: dict[str, Any]) -> dict[str, Any]:
    """What a step was made of."""
    return {name: record[name] for name in COUNTED if name in record}


def at(events: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The first event of a kind."""
    return next(event for event in events if event["kind"] == kind)


def commits(job: SmallJob) -> list[Checkpoint]:
    """The checkpoints of the elastic run, oldest first, also those whose objects are gone."""
    log = RunLog(open_store(f"file://{job.folder}/checkpoints"), "default.elastic")
    return [entry for entry in log.entries() if isinstance(entry, Checkpoint)]


def sizes(job: SmallJob) -> list[int]:
    """The world sizes that committed, one after the other."""
    committed: Any = [entry.body["engine"] for entry in commits(job)]
    return [size for size, _ in itertools.groupby(engine["world_size"] for engine in committed)]


def history(job: SmallJob) -> list[dict[str, Any]]:
    """What the newest checkpoint holds of each optimizer step."""
    (key,) = [ref.key for ref in commits(job)[-1].objects if ref.key.endswith(HISTORY)]
    records = unpack((job.folder / "checkpoints" / key).read_bytes())
    return [dict(record) for record in records if "loss" in record]
