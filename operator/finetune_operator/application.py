"""The operator's parts, joined: caches feed a queue, the leader reconciles, every replica takes reports."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial

from aiohttp import web

from finetune_operator import kueue
from finetune_operator.api.job import JOB_NAME, MANAGED_BY, OPERATOR
from finetune_operator.api.reasons import ENDS, Phase
from finetune_operator.carry_out import Hands
from finetune_operator.core import Controller, EventRecorder, Informer, Key, Lease, Priority, WorkQueue, key_of, metrics
from finetune_operator.core.health import LoopLag, fresh, health_app, synced
from finetune_operator.core.lease import NotLeading
from finetune_operator.core.process import until_stopped
from finetune_operator.kube import ApiError, Client, Object
from finetune_operator.kube.resources import JOBS, PODS, RAYJOBS, RUNTIMES, Resource
from finetune_operator.look import (
    BY_JOB,
    BY_RUNTIME,
    BY_UID,
    Caches,
    Looker,
    has_children,
    next_in_turn,
    runtime_of,
    stand_of,
)
from finetune_operator.observe import controlled, labelled, owner_uid
from finetune_operator.policy.admission import Stand
from finetune_operator.progress import ADDRESS, Certificates, Forwarder, Mailbox, ProgressServer, Tokens, leader_address
from finetune_operator.reconcile import Reconciler
from finetune_operator.render import Operator
from finetune_operator.settings import Settings
from finetune_operator.story import Event
from finetune_operator.trim import trim_job, trim_pod, trim_ray_job

LEASE = "finetune-operator"
SECRET = "finetune-operator-tls"
OURS = f"{MANAGED_BY}={OPERATOR}"

EVENTS_PER_SECOND = 50
"""As many jobs as may start each second tell it at once; more of them tell it later."""

CROWD = 8
"""Jobs at once that make a crowd: starting so many takes an API server that has two cores half a second."""

LISTING_SECONDS = 0.5
"""How often jobs are told why they must wait, while not all that there is could be listed."""

WORKLOAD_PAUSE = 2.0
"""Seconds in which changes of what Kueue says of a job are gathered: it rewrites its messages as others come and go."""

logger = logging.getLogger(__name__)


def now() -> datetime:
    """The time of day in UTC, in whole seconds, as statuses hold it."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Watched:
    """The informers of everything that the operator reads; changes put the job they belong to into `queue`.

    `workloads` are Kueue's; they are followed where the operator is told to.
    """

    jobs: Informer
    runtimes: Informer
    ray_jobs: Informer
    pods: Informer
    workloads: Informer

    @classmethod
    def of(cls, client: Client, queue: WorkQueue[Key]) -> Watched:
        """Informers that are not running yet."""
        watched: Watched

        def runtime_changed(old: Object | None, new: Object | None) -> None:
            name = (new or old or {})["metadata"]["name"]
            watched.caches.lines.pop(name, None)
            for job in watched.jobs.store.by(BY_RUNTIME, name):
                queue.add(key_of(job), Priority.LIST)

        def child_changed(old: Object | None, new: Object | None) -> None:
            key = _job_of(new or old or {})
            if key is not None:
                queue.add(key, Priority.CHILD)
            if new is None and old is not None:
                for job in watched.jobs.store.by(BY_UID, owner_uid(old)):
                    wake_next(job)

        def job_changed(old: Object | None, new: Object | None) -> None:
            _job_changed(queue, old, new)
            if old is not None and stand_of(old) < Stand.ASIDE and (new is None or stand_of(new) >= Stand.ASIDE):
                wake_next(old)

        def wake_next(job: Object) -> None:
            """Look at those whose turn it may be now that this job leaves its place or the line."""
            if not has_children(watched.caches, job):
                for key in next_in_turn(watched.caches, runtime_of(job)):
                    queue.add(key, Priority.CHILD)

        def children(
            resource: Resource, owners: Callable[[Object], list[str]], trim: Callable[[Object], Object]
        ) -> Informer:
            indices = {BY_JOB: owners}
            return Informer(client, resource, selector=OURS, indices=indices, trim=trim, on_change=child_changed)

        def workload_changed(namespace: str, ray_job: str) -> None:
            key = _job_of(watched.ray_jobs.store.get(namespace, ray_job) or {"metadata": {}})
            if key is not None:
                queue.add(key, Priority.LIST, WORKLOAD_PAUSE)

        jobs = Informer(
            client,
            JOBS,
            indices={BY_RUNTIME: lambda obj: [runtime_of(obj)], BY_UID: lambda obj: [obj["metadata"]["uid"]]},
            trim=trim_job,
            on_change=job_changed,
        )
        runtimes = Informer(client, RUNTIMES, on_change=runtime_changed)
        workloads = kueue.workloads(client, workload_changed)
        ray_jobs, pods = children(RAYJOBS, controlled, trim_ray_job), children(PODS, labelled, trim_pod)
        watched = cls(jobs, runtimes, ray_jobs, pods, workloads)
        return watched

    @property
    def all(self) -> tuple[Informer, ...]:
        """Every informer that the operator cannot work without."""
        return self.jobs, self.runtimes, self.ray_jobs, self.pods

    @cached_property
    def caches(self) -> Caches:
        """What the informers have found."""
        jobs, runtimes, ray_jobs, pods = (informer.store for informer in self.all)
        return Caches(jobs, runtimes, ray_jobs, pods, self.workloads.store)

    def log_fields(self, key: Key) -> dict[str, object]:
        """What every line about the job of this namespace and name says: these, its generation and its attempt."""
        found = self.jobs.store.get(*key) or {"metadata": {}}
        attempts = (found.get("status") or {}).get("attempts")
        fields = {"namespace": key[0], "job": key[1], "generation": found["metadata"].get("generation")}
        return fields | {"attempt": attempts[-1]["number"] if attempts else None}

    def job(self, uid: str) -> Key | None:
        """Namespace and name of the job with this uid."""
        return next((key_of(found) for found in self.jobs.store.by(BY_UID, uid)), None)

    def pod(self, namespace: str, name: str) -> Object | None:
        """A pod of a job."""
        return self.pods.store.get(namespace, name)

    def phases(self) -> Counter[str]:
        """How many jobs are in each phase."""
        counted = Counter({phase.value: 0 for phase in Phase})
        counted.update((found.get("status") or {}).get("phase", Phase.PENDING) for found in self.jobs.store.all())
        return counted

    def output(self, uid: str) -> Object | None:
        """What the status of the job with this uid says of its output."""
        return next(((found.get("status") or {}).get("output") for found in self.jobs.store.by(BY_UID, uid)), None)


async def run(
    settings: Settings, stop: asyncio.Event, client: Client, settle: Callable[[], None] = lambda: None
) -> None:
    """Run this replica until `stop` is set; then the lease is given back.

    `client` is the one to reconcile with; `settle` is called when the caches are filled and nothing is done yet.
    """
    queue: WorkQueue[Key] = WorkQueue(observe=metrics.QUEUE_WAIT_SECONDS.observe)
    queue.close()  # until this replica leads
    metrics.QUEUE_DEPTH.set_function(lambda: len(queue))
    for reason in ENDS:  # from 0, so that the first one of a kind is an increase too
        metrics.ATTEMPTS_ENDED.labels(reason)
    watched = Watched.of(client, queue)
    mailbox = Mailbox(lambda key, after: queue.add(key, Priority.CHILD, after))
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(client.separate())
        certificates = Certificates(own, settings.namespace, SECRET, _names(settings))
        place = {ADDRESS: settings.progress_address}
        lease = Lease(client, settings.namespace, LEASE, settings.identity, annotations=place)
        client.guard_writes(lease.assert_leading)
        metrics.JOBS.count = lambda: watched.phases() if lease.is_leader else {}
        telling = await stack.enter_async_context(client.separate(EVENTS_PER_SECOND, 2 * EVENTS_PER_SECOND))
        recorder = EventRecorder(telling, settings.identity)
        # Each job's token is reviewed once a minute.
        reviewing = await stack.enter_async_context(client.separate(settings.qps, settings.burst))
        tokens = Tokens(reviewing, settings.audience_prefix)
        forwarder = Forwarder(certificates, settings.service)
        server = ProgressServer(
            mailbox, tokens, watched, certificates, forwarder, partial(leader_address, lease), _count_report
        )
        stack.push_async_callback(server.close)
        lag = LoopLag()
        await _serve_health(settings, watched, server, lag, stack)

        async def take_reports() -> None:
            await certificates.obtain()
            await server.start(settings.listen, settings.progress_port)
            await certificates.run()

        async def lead() -> None:
            mailbox.clear()
            await server.started.wait()  # and with it the certificates that pods are given
            looker = Looker(watched.caches, mailbox.take, now, since=now())
            hands = Hands(client, watched.caches, looker, lambda: as_seen_by_pods(settings, certificates.ca))
            tell = partial(_tell, recorder)
            reconcile = Reconciler(looker, hands, mailbox, tell, {}, queue.add, lambda: queue.busy > CROWD)
            await _listed(watched, reconcile.explain)
            settle()
            queue.open()
            try:
                _add_all(queue, watched)
                await Controller(queue, settings.workers, reconcile, fields=watched.log_fields).run()
            finally:
                queue.close()

        parts = [informer.run() for informer in watched.all]
        parts += [kueue.follow(client, watched.workloads)] if settings.kueue else []
        parts += [take_reports(), recorder.run(), lag.run(), lease.run(lead)]
        await until_stopped(stop, parts)


def _add_all(queue: WorkQueue[Key], watched: Watched) -> None:
    """Have every job looked at, first those that nobody has looked at yet."""
    for found in watched.jobs.store.all():
        queue.add(key_of(found), Priority.LIST if found.get("status") else Priority.SPEC)


async def _listed(watched: Watched, explain: Callable[[Object, str], Awaitable[None]]) -> None:
    """Wait until all there is was listed; in a cluster that has no RayJobs, jobs say so meanwhile."""
    listed = asyncio.gather(*(informer.synced.wait() for informer in watched.all))
    try:
        while not (await asyncio.wait({listed}, timeout=LISTING_SECONDS))[0]:
            for found in [] if watched.ray_jobs.known else watched.jobs.store.all():
                with suppress(ApiError, NotLeading):  # the next time comes soon
                    await explain(found, watched.ray_jobs.trouble)
    finally:
        listed.cancel()


async def _serve_health(
    settings: Settings, watched: Watched, server: ProgressServer, lag: LoopLag, stack: AsyncExitStack
) -> None:
    live = {"loop": lag.check} | {informer.resource.plural: fresh(informer) for informer in watched.all}
    ready = {informer.resource.plural: synced(informer) for informer in watched.all}
    ready["reports"] = lambda: None if server.started.is_set() else "nobody listens for them yet: see the log"
    runner = web.AppRunner(health_app(live, ready), access_log=None, handle_signals=False)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, settings.listen, settings.health_port).start()


def as_seen_by_pods(settings: Settings, ca: str) -> Operator:
    """What pods must know to report to this operator."""
    return Operator(
        namespace=settings.namespace,
        service=settings.service,
        port=settings.progress_port,
        ca=ca,
        audience_prefix=settings.audience_prefix,
        kuberay_namespace=settings.kuberay_namespace,
        metrics_namespace=settings.metrics_namespace,
    )


def _names(settings: Settings) -> list[str]:
    return [settings.service, f"{settings.service}.cluster.local", "localhost", "127.0.0.1"]


def _tell(recorder: EventRecorder, found: Object, event: Event) -> None:
    recorder.event(found, event.kind, event.reason.value, event.note, "Reconcile")


def _count_report(outcome: str) -> None:
    metrics.PROGRESS_REPORTS.labels(outcome).inc()


def _job_of(child: Object) -> Key | None:
    name = (child["metadata"].get("labels") or {}).get(JOB_NAME)
    return None if name is None else (child["metadata"]["namespace"], name)


def _job_changed(queue: WorkQueue[Key], old: Object | None, new: Object | None) -> None:
    found = new or old or {}
    changed = old is None or new is None or old["metadata"].get("generation") != new["metadata"].get("generation")
    queue.add(key_of(found), Priority.SPEC if changed else Priority.CHILD)
