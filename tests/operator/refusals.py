"""What keeps a job's objects from being created, put up on a real API server."""

from __future__ import annotations

import asyncio

from finetune_operator.kube import Forbidden, Object
from finetune_operator.kube.resources import RAYJOBS, Resource
from stage import Stage

QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")


async def limit(stage: Stage, namespace: str, **most: int) -> None:
    """Allow no more than so many objects in the namespace, once its usage is counted."""
    metadata, hard = {"name": "none", "namespace": namespace}, {name: str(count) for name, count in most.items()}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}
    found = await stage.client.create(QUOTAS, body)
    async with asyncio.timeout(20):
        while not (found.get("status") or {}).get("hard"):
            await asyncio.sleep(0.05)
            found = await stage.client.get(QUOTAS, namespace, "none")


async def allow(stage: Stage, namespace: str) -> None:
    """Take that back."""
    await stage.client.delete(QUOTAS, namespace, "none")


async def limit_ray_jobs(stage: Stage, namespace: str) -> None:
    """Allow no RayJob in the namespace, and return when the API server holds to it."""
    await limit(stage, namespace, **{"count/rayjobs.ray.io": 0})
    await _until_refused(stage, namespace, refused=True)


async def allow_ray_jobs(stage: Stage, namespace: str) -> None:
    """Take that back, and return when the API server holds to it."""
    await allow(stage, namespace)
    await _until_refused(stage, namespace, refused=False)


async def try_ray_job(stage: Stage, namespace: str, **labels: str) -> Object | None:
    """What the API server would make of a RayJob now; None when it refuses it."""
    metadata = {"name": "probe", "namespace": namespace, "labels": labels}
    probe: Object = {"apiVersion": RAYJOBS.api_version, "kind": RAYJOBS.kind, "metadata": metadata}
    try:
        return await stage.client.apply(RAYJOBS, probe | {"spec": {"entrypoint": "true"}}, dry_run=True)
    except Forbidden:
        return None


async def _until_refused(stage: Stage, namespace: str, *, refused: bool) -> None:
    async with asyncio.timeout(20):
        while (await try_ray_job(stage, namespace) is None) != refused:
            await asyncio.sleep(0.05)
