"""Refusing what this machine cannot run, and running it on other workers."""

from __future__ import annotations

import json

import pytest

from finetune_trainer.errors import SpecError
from finetune_trainer.launch.environment import prepare, threads
from finetune_trainer.launch.machine import Machine, check_machine, this_machine, with_workers
from finetune_trainer.launch.ray_environment import reachable_address
from finetune_trainer.spec import FineTuneJob, parse_job, ranks
from launch_job import manifest, plan


def job(replicas: int, gpus: int = 0) -> FineTuneJob:
    data = manifest(replicas=replicas)
    data["spec"]["workers"]["gpusPerReplica"] = gpus
    data["spec"]["training"]["globalBatchSize"] = 64
    return parse_job(json.dumps(data))


@pytest.mark.parametrize(
    ("replicas", "gpus", "machine", "path", "texts"),
    [
        (5, 0, Machine(4, 0), "spec.workers.replicas", ["4 CPU cores", "`--workers 4 --gpus 0`"]),
        (3, 0, Machine(1, 0), "spec.workers.replicas", ["1 CPU cores", "`--workers 2 --gpus 0`"]),
        (2, 8, Machine(16, 8), "spec.workers.replicas", ["needs 16 GPUs", "has 8", "`--workers 16 --gpus 0`"]),
        (1, 8, Machine(4, 0), "spec.workers.gpusPerReplica", ["needs 8 GPUs", "has 0", "`--workers 4 --gpus 0`"]),
    ],
)
def test_more_than_the_machine_has_is_refused_with_the_remedy(
    replicas: int, gpus: int, machine: Machine, path: str, texts: list[str]
) -> None:
    with pytest.raises(SpecError) as refused:
        check_machine(job(replicas, gpus), machine)
    (problem,) = refused.value.problems
    assert problem.path == path
    assert problem.value == (replicas if path.endswith("replicas") else gpus)
    for text in [*texts, "global batch stays the same"]:
        assert text in problem.message


@pytest.mark.parametrize(
    ("replicas", "gpus", "machine"), [(2, 0, Machine(1, 0)), (4, 0, Machine(4, 0)), (2, 4, Machine(1, 8))]
)
def test_what_fits_is_accepted(replicas: int, gpus: int, machine: Machine) -> None:
    check_machine(job(replicas, gpus), machine)


def test_other_workers_keep_the_global_batch() -> None:
    changed = with_workers(job(2, 8), replicas=2, gpus=0)
    assert ranks(changed) == 2
    assert changed.spec.training.global_batch_size == 64


def test_other_workers_are_checked_against_the_global_batch() -> None:
    with pytest.raises(SpecError, match="globalBatchSize"):
        with_workers(job(2), replicas=65, gpus=None)


def test_without_overrides_the_job_stays_as_it_is() -> None:
    same = job(2)
    assert with_workers(same, None, None) is same


def test_this_machine_has_a_core() -> None:
    assert this_machine(count_gpus=False).cpus >= 1


def test_cores_are_divided_among_ranks_and_the_users_choice_is_kept() -> None:
    assert [threads(1, 8), threads(3, 8), threads(8, 2)] == [8, 2, 1]
    environ = {"OMP_NUM_THREADS": "5"}
    prepare(environ, "cpu", local_world_size=2, cpus=8)
    assert environ["OMP_NUM_THREADS"] == "5"
    assert environ["DS_ACCELERATOR"] == "cpu"
    assert environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    on_gpu: dict[str, str] = {}
    prepare(on_gpu, "cuda:0", local_world_size=2, cpus=8)
    assert on_gpu["OMP_NUM_THREADS"] == "4"
    assert "DS_ACCELERATOR" not in on_gpu


def test_ray_reserves_so_little_that_all_ranks_fit() -> None:
    from finetune_trainer.launch.ray_train import resources_per_worker

    crowded = plan("succeed", "crowded", replicas=3)  # on two cores
    assert resources_per_worker(crowded, local=True) == {"CPU": 0.66}
    assert resources_per_worker(plan("succeed", "alone", replicas=1), local=True) == {"CPU": 1.0}


def test_a_cluster_gives_each_rank_its_part_of_the_pod() -> None:
    from finetune_trainer.launch.ray_train import resources_per_worker

    workers = {"replicas": 2, "gpusPerReplica": 8, "resources": {"cpu": "64", "memory": "512Gi"}}
    training = {"maxSteps": 2, "globalBatchSize": 16, "learningRate": 1.0e-3}
    big = plan("succeed", "big", workers=workers, training=training)
    assert resources_per_worker(big, local=False) == {"CPU": 8.0, "GPU": 1.0}
    workers = {"replicas": 2, "gpusPerReplica": 0, "resources": {"cpu": "500m"}}
    assert resources_per_worker(plan("succeed", "small", workers=workers), local=False) == {"CPU": 1.0}


def test_a_local_run_listens_on_loopback_only() -> None:
    assert reachable_address(None) == "127.0.0.1"
    assert reachable_address("ray://127.0.0.1:10001") == "127.0.0.1"
