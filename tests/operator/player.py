"""Plays KubeRay, the kubelets and the runs, through a real API server and the operator's real progress endpoint.

It makes the pods of a RayJob with the labels, spec and owner that KubeRay gives them, lets them run, reports over
HTTPS with the pod's own token, sets the RayJob's status, and finishes the deletion of pods. Deleting what a deleted
RayJob owns is left to the garbage collector, which is real.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from finetune_operator.api.job import ATTEMPT, JOB_UID
from finetune_operator.core import Informer
from finetune_operator.kube import ApiError, Client, NotFound, Object
from finetune_operator.kube.resources import JOBS, PODS, RAYJOBS, Resource
from reports import body
from running import PREFIX

PATIENCE = 20.0
AGAIN = 0.03
"""Seconds after which a report that was not taken is sent again."""

T = TypeVar("T")
logger = logging.getLogger(__name__)
Plot = Callable[["Run"], Awaitable[None]]


@dataclass
class Run:
    """One attempt while it is played."""

    player: Player
    ray_job: Object
    head: Object = field(default_factory=dict)
    token: str = ""
    sent: int = 0

    @property
    def uid(self) -> str:
        """The job's uid."""
        return str(self.ray_job["metadata"]["labels"][JOB_UID])

    @property
    def place(self) -> tuple[str, str]:
        """Namespace and name of the RayJob."""
        return self.ray_job["metadata"]["namespace"], self.ray_job["metadata"]["name"]

    async def start(self) -> None:
        """Pods are made, become ready, and Ray starts the driver."""
        cluster = self.ray_job["spec"]["rayClusterSpec"]
        group = cluster["workerGroupSpecs"][0]
        self.head = await self._pod("head", cluster["headGroupSpec"]["template"])
        for number in range(group["replicas"]):
            await self._pod(f"worker-{number}", group["template"])
        await self.driver("RUNNING", "Running")

    async def driver(self, ray_status: str, deployment: str, message: str = "") -> None:
        """What Ray and KubeRay say of the driver."""
        status = {"jobStatus": ray_status, "jobDeploymentStatus": deployment, "message": message}
        await self.player.set_status(RAYJOBS, *self.place, status)

    async def tell(self, *events: Mapping[str, Any]) -> Object:
        """Report until it is taken; returns the answer."""
        numbered = [{**event, "seq": self.sent + number} for number, event in enumerate(events, 1)]
        self.sent += len(events)
        return await self.player.post(self, body(*numbered, stream=self.place[1]))

    async def trains(self) -> None:
        """Five steps and a commit."""
        commit = {"kind": "checkpoint", "step": 5, "uri": "s3://ckpt/x"}
        await self.tell({"kind": "progress", "step": 5, "totalSteps": 10, "percent": 50.0}, commit)

    async def fails(self, code: int, reason: str, message: str) -> None:
        """The driver tells its end, to the operator and in its log, and ends."""
        failure = {"reason": reason, "message": message}
        await self.tell({"kind": "failure", "exitCode": code, **failure})
        await self.driver("FAILED", "Failed", json.dumps({"exitCode": code, "failure": failure}))

    async def _pod(self, name: str, template: Object) -> Object:
        namespace, owner = self.place
        reference = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": owner, "uid": self.ray_job["metadata"]["uid"]}
        metadata = {**template["metadata"], "name": f"{owner}-{name}", "namespace": namespace}
        spec = {**template["spec"], "nodeName": "node-1"}  # so that its deletion waits for a kubelet
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata | {"ownerReferences": [reference]}, "spec": spec}
        made = await self.player.client.create(PODS, pod)
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        return await self.player.set_status(PODS, namespace, made["metadata"]["name"], ready)


async def succeeds(run: Run) -> None:
    """Trains to the end."""
    await run.trains()
    await run.tell({"kind": "result", "output": "s3://models/x"})
    await run.driver("SUCCEEDED", "Complete")


async def loses_its_node(run: Run) -> None:
    """The node under the head goes away, and its pod with it; KubeRay says nothing yet."""
    await run.trains()
    lost = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "node is lost"}
    status = {"phase": "Failed", "conditions": [lost, {"type": "Ready", "status": "False"}]}
    await run.player.set_status(PODS, run.place[0], run.head["metadata"]["name"], status)


async def meets_a_wrong_manifest(run: Run) -> None:
    """Ends by a mistake of the user."""
    await run.tell({"kind": "phase", "name": "loading the model"})
    await run.fails(10, "UserError", "spec.data.train[0].uri: there is no such object")


async def trains_until_stopped(run: Run) -> None:
    """Trains on until it is asked to stop; then it commits and ends with 15."""
    await run.trains()
    step = 5
    while True:
        step += 1
        answer = await run.tell({"kind": "progress", "step": step, "totalSteps": 1000, "percent": 1.0})
        if answer["stopBy"] is not None:
            break
        await asyncio.sleep(AGAIN)  # a step takes its time
    await run.tell({"kind": "checkpoint", "step": step, "uri": "s3://ckpt/x"})
    await run.fails(15, "Stopped", f"stopped at step {step}")


async def waits(run: Run) -> None:
    """Trains, and nothing more happens."""
    await run.trains()


class Player:
    """Follows one namespace. `plots` say what happens in attempt 1, 2, ...; the last one goes for all further ones.

    `trouble` is what must never be: two attempts of a job alive at once. Reports go to `port`. With `kuberay`, the real
    one makes the pods, and nobody reports.
    """

    def __init__(
        self, client: Client, namespace: str, *plots: Plot, port: Callable[[], int], kuberay: bool = False
    ) -> None:
        self.client, self.namespace, self.plots = client, namespace, plots or (succeeds,)
        self._kuberay = kuberay
        self.trouble: list[str] = []
        self.hold_pods = False
        self.played: list[str] = []
        self.port = port
        self._changed = asyncio.Event()
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._ends: set[asyncio.Task[None]] = set()
        self.jobs = Informer(client, JOBS, namespace=namespace, on_change=self._note)
        self.ray_jobs = Informer(client, RAYJOBS, namespace=namespace, on_change=self._ray_job)
        self.pods = Informer(client, PODS, namespace=namespace, on_change=self._pod)

    async def run(self) -> None:
        """Play until cancelled."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, force_close=True)) as self.session:
            try:
                await asyncio.gather(*(one.run() for one in (self.jobs, self.ray_jobs, self.pods)))
            finally:
                tasks = [*self._runs.values(), *self._ends]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, condition: Callable[[], T | None], what: str = "") -> T:
        """Return what the condition gives as soon as it is something true, looking after every change."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not (found := condition()):
                    self._changed.clear()
                    await self._changed.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE} s: {what or condition}\n{self.describe()}") from None

    def look_again(self) -> None:
        """Let `until` look: something has changed that the API server does not know of."""
        self._changed.set()

    def job(self, name: str) -> Object | None:
        """A job as it is now."""
        return self.jobs.store.get(self.namespace, name)

    def phase(self, name: str) -> str:
        """The phase of a job."""
        found = self.job(name) or {}
        return str((found.get("status") or {}).get("phase", ""))

    async def phase_is(self, name: str, phase: str) -> Object:
        """Wait for a phase and return the job."""
        return await self.until(lambda: self.job(name) if self.phase(name) == phase else None, f"{name} {phase}")

    async def cleared(self) -> None:
        """Wait until no attempt has anything left."""
        await self.until(lambda: not self.ray_jobs.store.all() and not self.pods.store.all(), "no RayJob, no pod")

    async def release_pods(self) -> None:
        """Let the pods go that `hold_pods` kept, and all others as soon as they are deleted."""
        self.hold_pods = False
        for pod in self.pods.store.all():
            if "deletionTimestamp" in pod["metadata"]:
                await self._end_pod(pod)

    def describe(self) -> str:
        """What there is, for a message."""
        kept = [*self.jobs.store.all(), *self.ray_jobs.store.all(), *self.pods.store.all()]
        lines = (
            f"{one.get('kind')} {one['metadata']['name']} {one['metadata'].get('deletionTimestamp', '')}"
            f" {json.dumps(one.get('status'))[:3000]}"
            for one in kept
        )
        return "\n".join(lines)

    async def set_status(self, resource: Resource, namespace: str, name: str, status: Object) -> Object:
        """Write a status as the one does whom this plays."""
        return await self.client.patch(resource, namespace, name, {"status": status}, subresource="status")

    async def post(self, run: Run, body: bytes) -> Object:
        """Send one report of a run, again and again until somebody takes it."""
        while True:
            headers = {"Authorization": f"Bearer {await self._token(run)}"}
            url = f"https://localhost:{self.port()}/v1/jobs/{run.uid}/progress"
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.post(url, data=body, headers=headers) as answer:
                    if answer.status == 200:
                        return dict(await answer.json())
            await asyncio.sleep(AGAIN)

    async def _token(self, run: Run) -> str:
        """The token that the kubelet would mount into the head."""
        if not run.token:
            metadata = run.head["metadata"]
            account = run.head["spec"]["serviceAccountName"]
            resource = Resource("", "v1", f"serviceaccounts/{account}/token", "TokenRequest")
            bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
            spec = {"audiences": [f"{PREFIX}/{run.uid}"], "expirationSeconds": 600, "boundObjectRef": bound}
            request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            made = await self.client.create(resource, request | {"metadata": {"namespace": self.namespace}})
            run.token = made["status"]["token"]
        return run.token

    def _note(self, old: Object | None, new: Object | None) -> None:
        self._changed.set()

    def _ray_job(self, old: Object | None, new: Object | None) -> None:
        self._changed.set()
        if new is None and old is not None:
            if (task := self._runs.pop(old["metadata"]["uid"], None)) is not None:
                task.cancel()
        elif new is not None:
            self._check(RAYJOBS.kind, self.ray_jobs, new)
            if old is None:
                self.played.append(new["metadata"]["name"])
            if old is None and not self._kuberay:
                self._runs[new["metadata"]["uid"]] = asyncio.create_task(self._play(new))

    def _pod(self, old: Object | None, new: Object | None) -> None:
        self._changed.set()
        if new is not None:
            self._check(PODS.kind, self.pods, new)
            if "deletionTimestamp" in new["metadata"] and not self.hold_pods:
                end = asyncio.create_task(self._end_pod(new))
                self._ends.add(end)
                end.add_done_callback(self._ends.discard)

    def _check(self, kind: str, informer: Informer, new: Object) -> None:
        """Two attempts of a job that are there at the same time."""
        labels = new["metadata"].get("labels") or {}
        others = [one["metadata"].get("labels") or {} for one in informer.store.all()]
        alive = {one.get(ATTEMPT) for one in others if one.get(JOB_UID) == labels.get(JOB_UID)} - {None}
        if len(alive) > 1:
            self.trouble.append(f"{kind}s of attempts {sorted(map(str, alive))} of a job are alive at once")

    async def _play(self, ray_job: Object) -> None:
        number = int(ray_job["metadata"]["labels"][ATTEMPT])
        run = Run(self, ray_job)
        try:
            while (self.ray_jobs.store.get(*run.place) or ray_job)["spec"].get("suspend"):
                self._changed.clear()  # KubeRay makes no pods for it
                await self._changed.wait()
            await run.start()
            await self.plots[min(number, len(self.plots)) - 1](run)
        except NotFound:
            logger.info("attempt %d was deleted while it was played", number)
        except ApiError as error:
            self.trouble.append(f"attempt {number} could not be played: {error}")
            self._changed.set()

    async def _end_pod(self, pod: Object) -> None:
        """The kubelet says that nothing of a deleted pod runs any more."""
        metadata = pod["metadata"]
        with suppress(ApiError):
            await self.client.delete(PODS, self.namespace, metadata["name"], uid=metadata["uid"], grace_seconds=0)
