"""Has the operator's own code send every kind of request that it can send, once; players of the cluster's other parts
act as the administrator."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from finetune_operator.api.job import ROLE, read_job
from finetune_operator.application import LEASE, SECRET, Watched, now
from finetune_operator.carry_out import Hands
from finetune_operator.core import EventRecorder, Lease, WorkQueue
from finetune_operator.core.metrics import REGISTRY
from finetune_operator.kube import Client, Object
from finetune_operator.kube.resources import JOBS, PODS, RAYCLUSTERS, RAYJOBS
from finetune_operator.look import Looker
from finetune_operator.observe import PodView, RayJobView, read_pod, read_ray_job
from finetune_operator.policy.actions import (
    Action,
    AddFinalizer,
    CreateAttempt,
    DeleteJob,
    DeleteRayJob,
    ForceDeletePod,
    RemoveFinalizer,
    ScaleCluster,
)
from finetune_operator.progress import Certificates, Mailbox, Tokens
from finetune_operator.reconcile import Reconciler
from finetune_operator.render.names import attempt_labels
from finetune_operator.story import Event
from looks import manifest
from render_example import OPERATOR

PATIENCE = 20.0


@dataclass(frozen=True)
class Place:
    """Where everything happens: the operator lives in `home`, a tenant's job in `tenant`."""

    home: str
    tenant: str


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


async def send_everything(client: Client, admin: Client, place: Place, watches: Callable[[], int]) -> None:
    """Send every request with `client`; whatever is refused is raised. `watches` says how many watches were begun."""
    await keep_certificates(client, place.home)
    await lead_in_turn(client, place.home)
    await review_a_token(client, place)
    async with following(client) as caches:
        await until(lambda: watches() == len(caches.all) + 1)  # and Kueue's
        await follow_one_job(client, admin, caches, place)


async def keep_certificates(client: Client, home: str) -> None:
    """Make the Secret, then renew it for another name."""
    for names in (["one.test"], ["one.test", "two.test"]):
        await Certificates(client, home, SECRET, names).ensure()


async def lead_in_turn(client: Client, home: str) -> None:
    """Two replicas lead one after the other: the first makes the Lease, and each gives it back."""

    async def nothing() -> None:
        pass

    for identity in ("one", "two"):
        await Lease(client, home, LEASE, identity).run(nothing)


async def review_a_token(client: Client, place: Place) -> None:
    """Ask the API server about a token that says what one of a job says; it is forged, which only the server knows."""
    claims = {
        "exp": time.time() + 600,
        "aud": ["finetune.dev/jobs/some-uid"],
        "kubernetes.io": {"namespace": place.tenant, "pod": {"name": "head", "uid": "some-uid"}},
    }
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    verdict = await Tokens(client, "finetune.dev/jobs").sender(f"e30.{middle}.e30", "some-uid", place.tenant)
    assert getattr(verdict, "status", None) == 401, verdict


@asynccontextmanager
async def following(client: Client) -> AsyncIterator[Watched]:
    """The operator's informers, running."""
    caches = Watched.of(client, WorkQueue())
    tasks = [asyncio.create_task(informer.run()) for informer in (*caches.all, caches.workloads)]
    try:
        yield caches
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def follow_one_job(client: Client, admin: Client, caches: Watched, place: Place) -> None:
    """A job from its creation to its end, with everything that may have to be done for one."""
    body = manifest()
    body["metadata"]["namespace"] = place.tenant
    key = (place.tenant, body["metadata"]["name"])
    await admin.create(JOBS, body)
    await until(lambda: caches.jobs.store.get(*key) is not None)
    mailbox = Mailbox(lambda key, after: None)
    looker = Looker(caches.caches, mailbox.take, now, since=now())
    hands = Hands(client, caches.caches, looker, lambda: OPERATOR)
    told: list[Event] = []
    reconcile = Reconciler(looker, hands, mailbox, lambda found, event: told.append(event), {})
    await reconcile(key)  # adds the finalizer, creates everything, writes the status

    async def do(action: Action) -> None:
        await hands.carry_out(read_job(found(caches, key)), action)

    await do(CreateAttempt(1))  # all of it is there: looks whose it is
    await hands.catch_up(read_job(found(caches, key)))
    await tell_twice(client, found(caches, key), told[0])
    await do(ForceDeletePod(await a_pod(admin, caches, key)))
    ray_job = read_ray_job(next(iter(caches.ray_jobs.store.all())))
    assert ray_job is not None
    await a_cluster(admin, ray_job, place.tenant)
    await do(ScaleCluster(replace(ray_job, cluster=ray_job.name), 2))
    await do(DeleteRayJob(ray_job))
    await do(AddFinalizer())
    await do(DeleteJob())
    await do(RemoveFinalizer())
    assert caches.jobs.store.get(*key) is None


async def a_pod(admin: Client, caches: Watched, key: tuple[str, str]) -> PodView:
    """A pod of the job, as KubeRay makes it."""
    job = read_job(found(caches, key))
    metadata = {"name": "head", "namespace": job.namespace, "labels": attempt_labels(job, 1) | {ROLE: "head"}}
    spec = {"nodeName": "node-1", "containers": [{"name": "main", "image": "localhost/none:1"}]}
    await admin.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    await until(lambda: caches.pods.store.get(job.namespace, "head") is not None)
    view = read_pod(caches.pods.store.get(job.namespace, "head") or {})
    assert view is not None
    return view


async def a_cluster(admin: Client, ray_job: RayJobView, namespace: str) -> None:
    """The RayCluster of a RayJob, as KubeRay makes it."""
    whole = await admin.get(RAYJOBS, namespace, ray_job.name)
    owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": ray_job.name, "uid": ray_job.uid}
    metadata = {"name": ray_job.name, "namespace": namespace, "ownerReferences": [owner]}
    body = {"apiVersion": RAYCLUSTERS.api_version, "kind": RAYCLUSTERS.kind, "metadata": metadata}
    await admin.create(RAYCLUSTERS, body | {"spec": whole["spec"]["rayClusterSpec"]})


async def tell_twice(client: Client, about: Object, event: Event) -> None:
    """The same event from two replicas: the second one raises the count of the first."""
    before = events_written()
    recorders = [EventRecorder(client, identity) for identity in ("one", "two")]
    for recorder in recorders:
        recorder.event(about, event.kind, event.reason.value, event.note, "Reconcile")
    tasks = [asyncio.create_task(recorder.run()) for recorder in recorders]
    await until(lambda: events_written() == before + len(recorders))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def events_written() -> float:
    """How many events this process has written."""
    return REGISTRY.get_sample_value("finetune_events_total", {"result": "written"}) or 0.0


def found(caches: Watched, key: tuple[str, str]) -> Object:
    """The job as the operator knows it."""
    job = caches.jobs.store.get(*key)
    assert job is not None
    return job
