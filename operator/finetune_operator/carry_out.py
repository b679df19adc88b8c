"""Carries out the actions of a decision against the API server, so that doing one twice is doing it once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_operator.api.job import FINALIZER, JOB_UID, MANAGED_BY, OPERATOR, Job
from finetune_operator.api.reasons import Reason
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.kube import (
    AlreadyExists,
    ApiError,
    Client,
    Conflict,
    NotFound,
    Object,
    Resource,
    TooManyRequests,
    Unauthorized,
)
from finetune_operator.kube.resources import (
    CONFIGMAPS,
    JOBS,
    NETWORKPOLICIES,
    PDBS,
    PODS,
    RAYCLUSTERS,
    RAYJOBS,
    REVISIONS,
    SERVICEACCOUNTS,
)
from finetune_operator.look import Caches, Looker
from finetune_operator.observe import RayJobView
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
from finetune_operator.policy.seen import Obstacle
from finetune_operator.render import Operator, objects
from finetune_operator.render.names import child_name
from finetune_operator.render.support import owned

KINDS = {
    resource.kind: resource for resource in (CONFIGMAPS, NETWORKPOLICIES, PDBS, RAYJOBS, REVISIONS, SERVICEACCOUNTS)
}

PASSING = (AlreadyExists, Conflict, NotFound, TooManyRequests, Unauthorized)
"""What the API server may answer for reasons that do not lie in what it was sent."""

logger = logging.getLogger(__name__)


class Refused(Exception):
    """The API server does not let the operator create something for the job; `obstacle` says why, for the status."""

    def __init__(self, obstacle: Obstacle) -> None:
        super().__init__(obstacle.message)
        self.obstacle = obstacle


@dataclass(frozen=True)
class Hands:
    """Does what decisions ask for. `operator` is what pods must know to report."""

    client: Client
    caches: Caches
    looker: Looker
    operator: Callable[[], Operator]

    async def carry_out(self, job: Job, action: Action) -> None:
        """Do one action. Raises Refused, or the ApiError that kept it from being done."""
        match action:
            case AddFinalizer():
                await self._set_finalizers(_metadata(job), (*job.finalizers, FINALIZER))
            case RemoveFinalizer():
                await self.release({"metadata": _metadata(job) | {"finalizers": job.finalizers}})
            case CreateAttempt(number):
                await self._create_attempt(job, number)
            case DeleteRayJob(ray_job):
                await self._delete(RAYJOBS, job.namespace, ray_job.name, ray_job.uid)
            case ScaleCluster(ray_job, workers):
                await self._scale(job.namespace, ray_job, workers)
            case ForceDeletePod(pod):
                logger.warning("pod %s on node %s is deleted by force: it would not end by itself", pod.name, pod.node)
                await self._delete(PODS, job.namespace, pod.name, pod.uid, grace_seconds=0)
            case DeleteJob():
                await self._delete(JOBS, job.namespace, job.name, job.uid)

    async def read_again(self, key: tuple[str, str]) -> None:
        """Bring the cache up to what the API server itself has of the job of this namespace and name."""
        self.caches.jobs.put(await self.client.get(JOBS, *key))

    async def catch_up(self, job: Job) -> None:
        """Bring the caches up to what the API server itself has of a job: each watch may be behind, by its own time.

        Raises Conflict when the job is not as it was looked at.
        """
        found = await self.client.get(JOBS, job.namespace, job.name)
        self.caches.jobs.put(found)
        if found["metadata"]["resourceVersion"] != job.resource_version:
            raise Conflict(409, "Conflict", f"job {job.namespace}/{job.name} has changed since it was seen")
        selector = f"{MANAGED_BY}={OPERATOR},{JOB_UID}={job.uid}"
        for resource, cache in ((RAYJOBS, self.caches.ray_jobs), (PODS, self.caches.pods)):
            async for page in self.client.pages(resource, namespace=job.namespace, selector=selector):
                for item in page.items:
                    cache.put(item)

    async def release(self, found: Object) -> None:
        """Let a deleted job go as it is."""
        metadata = found["metadata"]
        others = [one for one in metadata.get("finalizers") or () if one != FINALIZER]
        if len(others) != len(metadata.get("finalizers") or ()):
            await self._set_finalizers(metadata, others)

    async def _set_finalizers(self, metadata: Object, finalizers: Sequence[str]) -> None:
        wanted = {name: metadata[name] for name in ("uid", "resourceVersion")} | {"finalizers": list(finalizers)}
        place = (metadata["namespace"], metadata["name"])
        found = await self.client.patch(JOBS, *place, {"metadata": wanted})
        if found["metadata"].get("finalizers") or "deletionTimestamp" not in found["metadata"]:
            self.caches.jobs.put(found)
        else:
            self.caches.jobs.remove(*place, metadata["uid"])

    async def _scale(self, namespace: str, ray_job: RayJobView, workers: int) -> None:
        """Change the number of workers in the one worker group of a RayCluster, if it is this RayJob's."""
        found = await self.client.get(RAYCLUSTERS, namespace, ray_job.cluster)
        metadata, (group,) = found["metadata"], found["spec"]["workerGroupSpecs"]
        if _owned_by(found, ray_job.uid):
            wanted = {name: metadata[name] for name in ("uid", "resourceVersion")}
            change = {"metadata": wanted, "spec": {"workerGroupSpecs": [{**group, "replicas": workers}]}}
            await self.client.patch(RAYCLUSTERS, namespace, ray_job.cluster, change)

    async def _create_attempt(self, job: Job, number: int) -> None:
        """Create everything that the attempt needs, its RayJob last: once that is there, all of it is."""
        runtime = await self._runtime(job)
        try:
            for body in objects(job, runtime, number, self.operator()):
                created = await self._create(job, body)
                if body["kind"] == RAYJOBS.kind:
                    self.caches.ray_jobs.put(created)
        except ApiError as error:
            if not _denied(error):
                raise
            raise Refused(Obstacle(Reason.FORBIDDEN, f"{error.message}; the operator tries again")) from error

    async def _create(self, job: Job, body: Object) -> Object:
        resource = KINDS[body["kind"]]
        try:
            return await self.client.create(resource, body)
        except AlreadyExists:
            found = await self.client.get(resource, job.namespace, body["metadata"]["name"])
            if _owned_by(found, job.uid):
                return found
            text = f"{body['kind']} {body['metadata']['name']} is there already and is not this job's: delete it"
            raise Refused(Obstacle(Reason.NAME_TAKEN, text)) from None

    async def _runtime(self, job: Job) -> RuntimeSpec:
        """The runtime as it was when the job first started: kept, so that no edit changes a job between attempts."""
        name = child_name(job.name, job.uid)
        if job.status.attempt is not None:
            try:
                found = await self.client.get(REVISIONS, job.namespace, name)
                return _kept_runtime(found)
            except NotFound:
                logger.warning("the kept runtime %s is gone: the present one is taken", name)
        runtime = self.looker.runtime(job.manifest.spec.runtime_ref.name)
        if isinstance(runtime, Obstacle):
            raise Refused(runtime)
        return _kept_runtime(await self._create(job, _revision(job, name, runtime)))

    async def _delete(self, resource: Resource, namespace: str, name: str, uid: str, **options: Any) -> None:
        """Delete this very object; one that is gone, or was followed by another of its name, is as good as deleted."""
        try:
            found = await self.client.delete(resource, namespace, name, uid=uid, **options)
        except NotFound:
            found = None
        cache = {RAYJOBS.kind: self.caches.ray_jobs, PODS.kind: self.caches.pods, JOBS.kind: self.caches.jobs}
        if found is not None:
            cache[resource.kind].put(found)
        else:
            cache[resource.kind].remove(namespace, name, uid)


def _owned_by(found: Object, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in found["metadata"].get("ownerReferences") or ())


def _denied(error: ApiError) -> bool:
    """Whether the API server will say the same again: a webhook or a policy that denies may do so with most of 4xx."""
    return 400 <= error.status < 500 and not isinstance(error, PASSING)


def _metadata(job: Job) -> Object:
    place = {"namespace": job.namespace, "name": job.name}
    return place | {"uid": job.uid, "resourceVersion": job.resource_version}


def _kept_runtime(revision: Object) -> RuntimeSpec:
    """The runtime in a ControllerRevision; a newer operator may have kept fields that this one does not know."""
    return RuntimeSpec.model_validate_json(json.dumps(revision["data"]), extra="ignore")


def _revision(job: Job, name: str, runtime: RuntimeSpec) -> Object:
    data = runtime.model_dump(mode="json", exclude_none=True)
    return {"apiVersion": REVISIONS.api_version, "kind": REVISIONS.kind, "metadata": owned(job, name)} | {
        "data": data,
        "revision": 1,
    }
