"""Thousands of jobs that train, as the operator leaves them, and a new operator that must find nothing to do.

One job is brought to training by the operator itself, with its pods and a report. The others are copies of its objects
under names and uids of their own: of an attempt they have what an operator watches, which is job, RayJob and pods.
While they are made, the definitions have no schema and take a status with the object: a quarter of the time.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil

from bench.scale_contestants import NAMESPACE, Ours, ours
from bench.scale_load import MIB, Load, cpu_seconds, loading
from child import Child
from cluster_programs import kuberay_crds
from control_plane import ControlPlane
from finetune_operator.kube import NotFound, Object, Resource
from finetune_operator.kube.resources import JOBS, PODS, RAYJOBS
from finetune_operator.kube.transport import Request
from finetune_operator.render.names import child_name
from player import Player, waits
from running import free_port

DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
TEMPLATE = "live-template"
KEPT = ("name", "namespace", "labels", "annotations", "finalizers", "ownerReferences")
IDLE_SECONDS = 30.0


@dataclass(frozen=True)
class Start:
    """One start of an operator before `jobs` live jobs.

    `seconds` from the start of its process until it had looked at every job and nothing was left to do; then `writes`,
    memory in MiB and, in per cent of one core, what it uses while nothing happens.
    """

    jobs: int
    seconds: float
    writes: dict[str, int]
    memory: float
    idle_cpu: float


@asynccontextmanager
async def live_jobs(folder: Path, count: int) -> AsyncIterator[Load]:
    """A control plane with so many jobs that train, each with a head and a worker."""
    contestant = ours()
    plane = ControlPlane(folder, ["--disable-admission-plugins=ServiceAccount"])  # copies of pods have none of theirs
    try:
        plane.start()
        definitions = (*contestant.crds(), kuberay_crds())
        plane.install_crds(*definitions)
        async with loading(plane, contestant) as load:
            template = await _one_that_trains(load, contestant)
            await _loosen(load, template)
            names = (f"live-{number:08d}" for number in range(1, count))
            await load.for_each(names, lambda name: _copy(load, template, name))
            plane.install_crds(*definitions)
            await load.until(partial(_takes_status, load, template, apart=True))
            await _warm(load)
            yield load
    finally:
        plane.stop()


@dataclass(frozen=True)
class Template:
    """The objects of the first job."""

    job: Object
    ray_job: Object
    pods: tuple[Object, ...]


async def _one_that_trains(load: Load, contestant: Ours) -> Template:
    port = free_port()
    operator = replace(contestant, progress_port=port).process(load.plane)
    operator.start()
    player = Player(load.client, NAMESPACE, waits, port=lambda: port)
    playing = asyncio.create_task(player.run())
    try:
        body = contestant.job_body(TEMPLATE)
        body["spec"]["workers"]["replicas"] = 1
        await load.client.create(JOBS, body)
        await player.phase_is(TEMPLATE, "Training")
        await load.quiet()
        job = await load.client.get(JOBS, NAMESPACE, TEMPLATE)
        return Template(job, player.ray_jobs.store.all()[0], tuple(player.pods.store.all()))
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        await _end(operator)


async def _copy(load: Load, template: Template, name: str) -> None:
    """Another job in the same state."""
    job = await _put(load, JOBS, template.job, {TEMPLATE: name})
    old, new = template.job["metadata"]["uid"], job["metadata"]["uid"]
    # The longer names first: they contain the shorter ones.
    renames = {child_name(TEMPLATE, old): child_name(name, new), old: new, TEMPLATE: name}
    ray_job = await _put(load, RAYJOBS, template.ray_job, renames)
    renames |= {template.ray_job["metadata"]["uid"]: ray_job["metadata"]["uid"]}
    for pod in template.pods:
        await _put(load, PODS, pod, renames)


async def _put(load: Load, resource: Resource, found: Object, renames: dict[str, str]) -> Object:
    """Create a copy with the status of what it is a copy of."""
    text = re.sub("|".join(map(re.escape, renames)), lambda match: renames[match[0]], json.dumps(found))
    body = json.loads(text)
    body["metadata"] = {name: value for name, value in body["metadata"].items() if name in KEPT}
    made = await load.client.create(resource, body)
    if resource is PODS:
        place = (NAMESPACE, made["metadata"]["name"])
        await load.client.patch(resource, *place, {"status": body["status"]}, subresource="status")
    return made


async def _loosen(load: Load, template: Template) -> None:
    """Let the API server take jobs and RayJobs as they come."""
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    for resource in (JOBS, RAYJOBS):
        name = f"{resource.plural}.{resource.group}"
        found = await load.client.get(DEFINITIONS, None, name)
        versions = [
            {**{key: one[key] for key in ("name", "served", "storage")}, "schema": anything}
            for one in found["spec"]["versions"]
        ]
        await load.client.patch(DEFINITIONS, None, name, {"spec": {"versions": versions}})
    await load.until(partial(_takes_status, load, template, apart=False))


async def _warm(load: Load) -> None:
    """Let the API server fill its own caches, which other definitions have emptied: it takes most of a minute."""
    for resource in (JOBS, RAYJOBS, PODS):
        async for _ in load.client.pages(resource, namespace=NAMESPACE):
            pass


async def _takes_status(load: Load, template: Template, *, apart: bool) -> bool:
    """Whether both kinds have a status subresource (`apart`), or neither has."""
    found = []
    for resource, one in ((JOBS, template.job), (RAYJOBS, template.ray_job)):
        request = Request("get", resource, resource.path(NAMESPACE, one["metadata"]["name"], "status"))
        try:
            await load.transport.send(request)
            found.append(True)
        except NotFound:
            found.append(False)
    return found == [apart, apart]


async def cold_start(load: Load, jobs: int, idle: float = IDLE_SECONDS) -> Start:
    """Start a new operator, wait until it is through with all jobs, watch it for `idle` seconds, and end it."""
    port = free_port()
    operator = replace(ours(), health_port=port).process(load.plane)
    before = await load.quiet()
    began = time.monotonic()
    operator.start()
    try:

        async def done() -> bool:
            return await asyncio.to_thread(_looked_at, port) >= jobs

        await load.until(done, operator)
        seconds = time.monotonic() - began
        process = psutil.Process(operator.pid)
        used, since = cpu_seconds(process), time.monotonic()
        await asyncio.sleep(idle)
        busy = 100 * (cpu_seconds(process) - used) / (time.monotonic() - since)
        writes = await load.quiet() - before
        return Start(jobs, seconds, dict(writes), process.memory_info().rss / MIB, busy)
    finally:
        await _end(operator)


def _looked_at(port: int) -> int:
    """How many reconciles have succeeded if nothing waits for one; else, or before it answers, 0."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("finetune_"))
    if float(values.get("finetune_queue_depth", 1)) > 0:
        return 0
    return int(float(values.get('finetune_reconcile_seconds_count{controller="jobs",result="success"}', 0)))


async def _end(operator: Child) -> None:
    """End it in order, so that the next one finds the lease given back."""
    if operator.pid is not None:
        process = psutil.Process(operator.pid)
        process.terminate()
        await asyncio.to_thread(process.wait, 30)
    operator.kill()
