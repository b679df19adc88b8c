"""One look at a job: its objects out of the caches, its reports out of the mailbox. Reads, and asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from finetune_operator.api.job import Job
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.report import Report
from finetune_operator.api.runtime import RuntimeSpec, read_runtime
from finetune_operator.observe import PodView, RayJobView, belonging, read_pod, read_ray_job
from finetune_operator.policy.admission import UNABLE, UNTIL_TRIED, Candidate, Line, Stand, position, turn
from finetune_operator.policy.seen import Obstacle, Seen
from finetune_operator.render import check_job, check_memory, check_runtime
from finetune_operator.workload import WorkloadView, read_workload
from finetune_trainer.errors import Problem, SpecError

Object = dict[str, Any]
BY_JOB = "job"
"""Index of RayJobs and pods by the job that they belong to, as `observe.belonging` names it."""

BY_RAY_JOB = "rayJob"
"""Index of Kueue's Workloads by the RayJob that they were made for, named as a job in BY_JOB."""

BY_RUNTIME = "runtime"
"""Index of FineTuneJobs by the name of their runtime."""

BY_UID = "uid"
"""Index of FineTuneJobs by their uid."""


LINE_LASTS = timedelta(seconds=10)
"""After so long a line is seen anew, though nobody was seen to leave it."""


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
    """The caches of everything that the operator watches. `workloads` are Kueue's, none where it is not followed."""

    jobs: Objects
    runtimes: Objects
    ray_jobs: Objects
    pods: Objects
    workloads: Objects
    lines: dict[str, Line] = field(default_factory=dict)
    """The line at the limit of each runtime as it was seen last; whoever leaves one has to see to it that it is seen
    anew (`next_in_turn`), whoever changes a runtime has to drop it."""


@dataclass(frozen=True)
class Looker:
    """Makes looks. `heard` gives the reports of a job by its uid; `since` is when this operator began to listen."""

    caches: Caches
    heard: Callable[[str], Report | None]
    clock: Callable[[], datetime]
    since: datetime
    starting: set[str] = field(default_factory=set)
    """Uids of the jobs whose attempt is being created: their place at the limit is taken, though no RayJob shows it."""
    walked: dict[str, datetime] = field(default_factory=dict)
    """When the line of a runtime was last seen for a job in it."""

    def look(self, job: Job, obstacle: Obstacle | None = None) -> Seen:
        """What there is of a job now; an obstacle that the API server put up is added by hand."""
        ray_jobs = tuple(self._ray_jobs(belonging(job.namespace, job.uid)))
        waits = not job.status.finished and not ray_jobs and job.deleted is None
        return Seen(
            job=job,
            ray_jobs=ray_jobs,
            pods=tuple(self._pods(belonging(job.namespace, job.uid))),
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
            spec = read_runtime(found)
        except SpecError as error:
            return _unsuitable(name, error.problems)
        problems = check_runtime(spec)
        return _unsuitable(name, problems) if problems else spec

    def _obstacle(self, job: Job) -> Obstacle | None:
        name = job.manifest.spec.runtime_ref.name
        runtime = self.runtime(name)
        first = job.status.attempt is None  # later attempts run on what was kept of the runtime
        if isinstance(runtime, Obstacle):
            return runtime if first else None
        if first and (problems := check_job(job.manifest, runtime)):
            return _unsuitable(name, problems)
        if first and (too_large := check_memory(job.manifest, runtime)):
            return Obstacle(Reason.USER_ERROR, f"FineTuneRuntime {name!r}: {too_large}")
        return self._run_limit(job, name, runtime.limits.max_running_jobs)

    def _run_limit(self, job: Job, runtime: str, limit: int | None) -> Obstacle | None:
        if limit is None:
            return None
        ahead = self._ahead(job.key, runtime, limit)
        if ahead is None:
            return None
        text = f"FineTuneRuntime {runtime!r} runs {limit} at a time (limits.maxRunningJobs); {turn(ahead)}"
        return Obstacle(Reason.RUN_LIMIT_REACHED, text, ahead)

    def _ahead(self, key: tuple[str, str], runtime: str, limit: int) -> int | None:
        """How many are ahead, by the line as it was last seen if that says enough, else by all jobs as they are."""
        line, now, seen = self.caches.lines.get(runtime), self.clock(), self.walked.get(runtime)
        if line is not None and seen is not None and now < seen + LINE_LASTS:
            ahead = line.ahead(key, limit)
            if ahead is not None:
                return ahead
        self.walked[runtime] = now
        return position(key, candidates(self.caches, runtime, self.starting), limit)

    def _ray_jobs(self, owner: str) -> Iterator[RayJobView]:
        views = (read_ray_job(found, self._workload(found)) for found in self.caches.ray_jobs.by(BY_JOB, owner))
        return (view for view in views if view is not None)

    def _workload(self, ray_job: Object) -> WorkloadView | None:
        """What Kueue says of a RayJob, which is of interest while it holds it back."""
        if not (ray_job.get("spec") or {}).get("suspend"):
            return None
        metadata = ray_job["metadata"]
        found = self.caches.workloads.by(BY_RAY_JOB, belonging(metadata["namespace"], metadata["uid"]))
        return read_workload(found[0]) if found else None

    def _pods(self, owner: str) -> Iterator[PodView]:
        views = (read_pod(found) for found in self.caches.pods.by(BY_JOB, owner))
        return (view for view in views if view is not None)


def runtime_of(job: Object) -> str:
    """Name of the FineTuneRuntime that a job of the API server runs on."""
    name: str = ((job.get("spec") or {}).get("runtimeRef") or {}).get("name", "default")
    return name


def candidates(caches: Caches, runtime: str, starting: Container[str] = ()) -> list[Candidate]:
    """The jobs of a runtime at its limit; `starting` are the uids of those whose attempt is being created.

    It is a walk over all of them, so the line that comes of it is kept in the caches.
    """
    found = [
        candidate_of(one, one["metadata"]["uid"] in starting or has_children(caches, one))
        for one in caches.jobs.by(BY_RUNTIME, runtime)
    ]
    caches.lines[runtime] = Line.of(found)
    return found


def has_children(caches: Caches, job: Object) -> bool:
    """Whether anything of an attempt of a job of the API server is there."""
    owner = belonging(job["metadata"]["namespace"], job["metadata"]["uid"])
    return bool(caches.ray_jobs.by(BY_JOB, owner) or caches.pods.by(BY_JOB, owner))


def next_in_turn(caches: Caches, runtime: str) -> list[tuple[str, str]]:
    """The jobs that the limit of this runtime lets start now; none where there is no limit to wait for."""
    found = caches.runtimes.get("", runtime) or {}
    limit = ((found.get("spec") or {}).get("limits") or {}).get("maxRunningJobs")
    if limit is None:
        return []
    candidates(caches, runtime)
    return caches.lines[runtime].may_start(limit)


def candidate_of(found: Object, live: bool) -> Candidate:
    """A job of the API server as the limit of running jobs sees it; `live`: something of an attempt is there."""
    metadata, attempts = found["metadata"], (found.get("status") or {}).get("attempts")
    ended = attempts[-1].get("finishedAt") if attempts else None
    return Candidate(
        key=(metadata["namespace"], metadata["name"]),
        stand=Stand.LIVE if live else stand_of(found),
        since=datetime.fromisoformat(metadata["creationTimestamp"]),
        ran_until=None if ended is None else datetime.fromisoformat(ended),
    )


def stand_of(found: Object) -> Stand:
    """Where a job of the API server stands at the limit while nothing of an attempt is there."""
    status = found.get("status") or {}
    said = {one["type"]: (one["status"], one["reason"]) for one in status.get("conditions") or ()}
    holds = {kind for kind, (text, _) in said.items() if text == "True"}
    reason = said.get(ConditionType.ADMITTED, ("", ""))[1]
    if found["metadata"].get("deletionTimestamp") or (found.get("spec") or {}).get("suspend"):
        return Stand.OUT
    if ConditionType.COMPLETE in holds or ConditionType.FAILED in holds:
        return Stand.OUT
    if status.get("attempts") and (ConditionType.ADMITTED in holds or reason == Reason.RETRYING):
        return Stand.BETWEEN
    if reason in UNABLE or (reason in UNTIL_TRIED and not status.get("queue")):
        return Stand.ASIDE
    return Stand.WAITING


def _unsuitable(name: str, problems: Sequence[Problem]) -> Obstacle:
    text = "; ".join(str(problem) for problem in problems)
    return Obstacle(Reason.RUNTIME_UNSUITABLE, f"FineTuneRuntime {name!r}: {text}")
