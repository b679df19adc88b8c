"""Who waits at a runtime's limit does not look at all the others each time."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.job import read_job
from finetune_operator.core import Store
from finetune_operator.kube.resources import RUNTIMES
from finetune_operator.look import BY_JOB, BY_RUNTIME, LINE_LASTS, Caches, Looker, next_in_turn, runtime_of
from looks import T0, manifest

WAITING = 300
LIMIT = 2


class Counted(Store):
    """A store that counts how often all jobs of a runtime are asked for."""

    walks = 0

    def by(self, index: str, key: str) -> list[dict[str, Any]]:
        self.walks += index == BY_RUNTIME
        return super().by(index, key)


def job(number: int) -> dict[str, Any]:
    stamp = f"2026-11-27T11:{number // 60:02}:{number % 60:02}Z"
    place = {"namespace": "team-a", "name": f"job-{number}", "uid": f"uid-{number}"}
    return {**manifest(), "metadata": {**place, "resourceVersion": str(number + 1), "creationTimestamp": stamp}}


def ray_job(number: int) -> dict[str, Any]:
    metadata = {"namespace": "team-a", "name": f"ray-{number}", "uid": f"ray-{number}", "resourceVersion": "1"}
    return {"metadata": metadata, "job": f"team-a/uid-{number}"}


def cluster() -> tuple[Counted, Caches]:
    """Jobs 0 and 1 run, all others wait."""
    jobs = Counted({BY_RUNTIME: lambda one: [runtime_of(one)]})
    for number in range(LIMIT + WAITING):
        jobs.put(job(number))
    ray_jobs = Store({BY_JOB: lambda one: [one["job"]]})
    for number in range(LIMIT):
        ray_jobs.put(ray_job(number))
    runtimes = Store()
    spec = {"image": "registry/trainer:1", "limits": {"maxRunningJobs": LIMIT}}
    named = {"apiVersion": RUNTIMES.api_version, "kind": RUNTIMES.kind}
    runtimes.put({**named, "metadata": {"name": "default", "uid": "r", "resourceVersion": "1"}, "spec": spec})
    nothing = Store({BY_JOB: lambda one: []})
    return jobs, Caches(jobs, runtimes, ray_jobs, nothing, nothing)


def ahead(looker: Looker, number: int) -> int | None:
    obstacle = looker.look(read_job(job(number))).obstacle
    return None if obstacle is None else obstacle.position


def test_a_line_is_walked_once_and_again_when_somebody_leaves() -> None:
    jobs, caches = cluster()
    now = [T0]
    looker = Looker(caches, lambda uid: None, lambda: now[-1], T0)
    waiting = range(LIMIT, LIMIT + WAITING)
    assert [ahead(looker, number) for number in waiting] == list(range(WAITING))
    assert jobs.walks == 1
    caches.ray_jobs.remove("team-a", "ray-0", "ray-0")
    jobs.remove("team-a", "job-0", "uid-0")
    assert next_in_turn(caches, "default") == [("team-a", "job-2")]
    assert ahead(looker, 2) is None
    assert [ahead(looker, number) for number in waiting[1:]] == list(range(WAITING - 1))
    assert jobs.walks == 3  # by the one that left and the one that starts
    now.append(T0 + LINE_LASTS)
    assert [ahead(looker, number) for number in waiting[1:]] == list(range(WAITING - 1))
    assert jobs.walks == 4
