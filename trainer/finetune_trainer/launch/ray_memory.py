"""Whether the kernel killed a process of a Ray node for memory, where only that node can tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from finetune_trainer.launch.processes import memory_kills_of_pod

ANSWER_SECONDS = 20.0
"""Seconds that the nodes have together; a process for the answer takes 2 to 8 to start."""


def memory_killed() -> bool:
    """Ask every pod of the cluster whether the kernel killed a process in it for memory since it began.

    It is asked when a run ends, and not at each restart, which would wait for the answer. Where a container ends as a
    whole when it runs out of memory (cgroup v2), its pod says so, and nothing here can. Without Ray there is nobody to
    ask: False.
    """
    if not ray.is_initialized():
        return False
    tasks = list(_questions())
    answers, _ = ray.wait(tasks, num_returns=len(tasks), timeout=ANSWER_SECONDS) if tasks else ([], [])
    return any(_answer(one) > 0 for one in answers)


def _questions() -> Iterator[ray.ObjectRef[int]]:
    count = ray.remote(memory_kills_of_pod)
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            yield count.options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote()


def _answer(task: ray.ObjectRef[int]) -> int:
    with suppress(RayError):  # the node went away meanwhile
        return ray.get(task)
    return 0
