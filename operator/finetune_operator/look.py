"""One look at a job: its objects out of the caches, its reports out of the mailbox. Reads, and asks nobody."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pydantic import ValidationError

from finetune_operator.api.job import JOB_UID, Job
from finetune_operator.api.reasons import Reason
from finetune_operator.api.report import Report
from finetune_operator.api.runtime import FineTuneRuntime, RuntimeSpec
from finetune_operator.observe import PodView, RayJobView, read_pod, read_ray_job
from finetune_operator.policy.admission import Candidate, order, position
from finetune_operator.policy.seen import Obstacle, Seen
from finetune_operator.render import check_job, check_runtime
from finetune_trainer.errors import Problem

Object = dict[str, Any]
BY_JOB = "job"
"""Index of RayJobs and pods by the uid of their job."""

BY_RUNTIME = "runtime"
"""Index of FineTuneJobs by the name of their runtime."""

BY_UID = "uid"
"""Index of FineTuneJobs by their uid."""

TURNS = 4
"""How many of the next in a line are woken when a place becomes free."""


class Objects(Protocol):
    """What a cache of one kind of object can tell."""

    def get(self, namespace: str, name: str) -> Object | None:
        """One object, if it is there."""
        ...

    def by(self, index: str, key: str) -> list[Object]:
        """The objects that an index has under a key."""
        ...

    def all(self) -> Iterable[Object]:
        """Every object."""
        ...

    def put(self, found: Object) -> None:
        """Take over the answer to a write, so that the next look sees it."""
        ...

    def remove(self, namespace: str, name: str, uid: str) -> None:
        """Forget an object that was deleted."""
        ...


@dataclass(frozen=True)
class Caches:
    """The caches of everything that the operator watches."""

    jobs: Objects
    runtimes: Objects
    ray_jobs: Objects
    pods: Objects


@dataclass(frozen=True)
class Looker:
    """Makes looks. `heard` gives the reports of a job by its uid; `since` is when this operator began to listen."""

    caches: Caches
    heard: Callable[[str], Report | None]
    clock: Callable[[], datetime]
    since: datetime

    def look(self, job: Job, obstacle: Obstacle | None = None) -> Seen:
        """What there is of a job now; an obstacle that the API server put up is added by hand."""
        ray_jobs = tuple(self._ray_jobs(job.uid))
        waits = not job.status.finished and not ray_jobs and job.deleted is None
        return Seen(
            job=job,
            ray_jobs=ray_jobs,
            pods=tuple(self._pods(job.uid)),
            heard=self.heard(job.uid),
            obstacle=obstacle or (self._obstacle(job) if waits else None),
            now=self.clock(),
            since=self.since,
        )

    def runtime(self, name: str) -> RuntimeSpec | Obstacle:
        """The runtime of this name, or why no job can run on it."""
        found = self.caches.runtimes.get("", name)
        if found is None:
            known = ", ".join(sorted(one["metadata"]["name"] for one in self.caches.runtimes.all())) or "none"
            text = f"spec.runtimeRef.name: there is no FineTuneRuntime {name!r}; the cluster has: {known}"
            return Obstacle(Reason.RUNTIME_MISSING, text)
        try:
            spec = read_runtime(found).spec
        except ValidationError as error:
            return Obstacle(Reason.RUNTIME_UNSUITABLE, f"FineTuneRuntime {name!r} is not valid: {error}")
        problems = check_runtime(spec)
        return _unsuitable(name, problems) if problems else spec

    def _obstacle(self, job: Job) -> Obstacle | None:
        name = job.manifest.spec.runtime_ref.name
        runtime = self.runtime(name)
        if isinstance(runtime, Obstacle):
            return runtime if job.status.attempt is None else None  # later attempts run on what was kept of it
        problems = check_job(job.manifest, runtime)
        if problems:
            return _unsuitable(name, problems)
        return self._run_limit(job, name, runtime.limits.max_running_jobs)

    def _run_limit(self, job: Job, runtime: str, limit: int | None) -> Obstacle | None:
        if limit is None:
            return None
        ahead = position(job.key, candidates(self.caches, runtime), limit)
        if ahead is None:
            return None
        text = f"{limit} jobs run on FineTuneRuntime {runtime!r} (limits.maxRunningJobs); {ahead} wait before this one"
        return Obstacle(Reason.RUN_LIMIT_REACHED, text, ahead)

    def _ray_jobs(self, uid: str) -> Iterator[RayJobView]:
        views = (read_ray_job(found) for found in self.caches.ray_jobs.by(BY_JOB, uid))
        return (view for view in views if view is not None)

    def _pods(self, uid: str) -> Iterator[PodView]:
        views = (read_pod(found) for found in self.caches.pods.by(BY_JOB, uid))
        return (view for view in views if view is not None)


def candidates(caches: Caches, runtime: str) -> list[Candidate]:
    """The jobs of a runtime that have a cluster or want one."""
    found = [
        candidate_of(one, bool(caches.ray_jobs.by(BY_JOB, one["metadata"]["uid"])))
        for one in caches.jobs.by(BY_RUNTIME, runtime)
    ]
    return [one for one in found if one is not None]


def next_in_turn(caches: Caches, ray_job: Object) -> list[tuple[str, str]]:
    """The jobs that may start now that a RayJob is gone, if its runtime has a limit."""
    for job in caches.jobs.by(BY_UID, (ray_job["metadata"].get("labels") or {}).get(JOB_UID, "")):
        name = ((job.get("spec") or {}).get("runtimeRef") or {}).get("name", "default")
        runtime = caches.runtimes.get("", name) or {}
        if ((runtime.get("spec") or {}).get("limits") or {}).get("maxRunningJobs") is not None:
            return order(candidates(caches, name))[:TURNS]
    return []


def read_runtime(found: Object) -> FineTuneRuntime:
    """A FineTuneRuntime of the API server; raises pydantic's ValidationError."""
    known = {"name": found["metadata"]["name"]}
    document = {key: found.get(key) for key in ("apiVersion", "kind", "spec")} | {"metadata": known}
    return FineTuneRuntime.model_validate_json(json.dumps(document))


def candidate_of(found: Object, running: bool) -> Candidate | None:
    """A job as the limit of running jobs sees it; None when it wants no cluster."""
    metadata, spec, status = found["metadata"], found.get("spec") or {}, found.get("status") or {}
    ended = any(
        one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in status.get("conditions") or ()
    )
    if not running and (ended or spec.get("suspend") or metadata.get("deletionTimestamp")):
        return None
    since = datetime.fromisoformat(metadata["creationTimestamp"])
    return Candidate((metadata["namespace"], metadata["name"]), running, since)


def _unsuitable(name: str, problems: list[Problem]) -> Obstacle:
    text = "; ".join(str(problem) for problem in problems)
    return Obstacle(Reason.RUNTIME_UNSUITABLE, f"FineTuneRuntime {name!r}: {text}")
