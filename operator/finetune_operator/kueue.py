"""Kueue's Workloads, by which the operator can say why a job waits in its queue, and why it lost its quota.

They are followed only by an operator that is told to, and only once Kueue's API is there; nothing else needs them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from finetune_operator.core import Informer
from finetune_operator.kube import ApiError, Client, Object
from finetune_operator.kube.resources import WORKLOADS
from finetune_operator.look import BY_RAY_JOB
from finetune_operator.observe import belonging
from finetune_operator.trim import trim_workload
from finetune_operator.workload import ray_job_owners

VERSIONS = ("v1beta2", "v1beta1")
"""What can be read, the best first: their conditions are the same."""

LOOK_AGAIN = 60.0
"""Seconds after which Kueue's API is looked for again."""

logger = logging.getLogger(__name__)


def workloads(client: Client, changed: Callable[[str, str], None]) -> Informer:
    """Workloads by their RayJob. `changed` is told namespace and name of a RayJob of which Kueue says something new."""

    def on_change(old: Object | None, new: Object | None) -> None:
        found = new or old or {}
        if old is None or new is None or old["status"] != new["status"]:
            for owner in ray_job_owners(found):
                changed(found["metadata"]["namespace"], owner["name"])

    def owners(found: Object) -> list[str]:
        namespace = found["metadata"]["namespace"]  # beyond it, anybody can write a reference
        return [belonging(namespace, owner["uid"]) for owner in ray_job_owners(found)]

    return Informer(client, WORKLOADS, indices={BY_RAY_JOB: owners}, trim=trim_workload, on_change=on_change)


async def follow(client: Client, informer: Informer) -> None:
    """Wait for Kueue's API, then follow it until cancelled."""
    told = False
    while (version := await _version(client)) is None:
        if not told:
            logger.info("Kueue's API is not there: it is looked for again every %d s", LOOK_AGAIN)
            told = True
        await asyncio.sleep(LOOK_AGAIN)
    informer.resource = replace(WORKLOADS, version=version)
    await informer.run()


async def _version(client: Client) -> str | None:
    try:
        served = await client.versions(WORKLOADS.group)
    except ApiError as error:
        logger.info("looking for Kueue's API: %s", error)
        return None
    return next((one for one in VERSIONS if one in served), None)
