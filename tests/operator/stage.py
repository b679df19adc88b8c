"""A namespace with the real operator, somebody who plays KubeRay and the runs in it, and a user who applies jobs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane import ControlPlane
from finetune_operator.api.job import JOB_UID
from finetune_operator.kube import Client, NotFound, Object
from finetune_operator.kube.resources import (
    CONFIGMAPS,
    JOBS,
    NETWORKPOLICIES,
    PDBS,
    PODS,
    RAYJOBS,
    REVISIONS,
    SERVICEACCOUNTS,
    Resource,
)
from looks import manifest
from player import PATIENCE, Player, Plot
from running import Replica, expire_lease

CHILDREN = (CONFIGMAPS, NETWORKPOLICIES, PDBS, PODS, RAYJOBS, REVISIONS, SERVICEACCOUNTS)


@dataclass
class Stage:
    """`client` is an administrator whom no fault meets; `replica` is the operator."""

    client: Client
    player: Player
    replica: Replica
    namespace: str

    async def apply(self, name: str = "bot", *, finalizers: Sequence[str] = (), **spec: Any) -> Object:
        """Create a job of one worker, as a user does."""
        body = manifest(**{"workers": {"replicas": 1, "gpusPerReplica": 0}, **spec})
        body["metadata"] = {"name": name, "namespace": self.namespace, "finalizers": list(finalizers)}
        made = await self.client.create(JOBS, body)
        self.player.jobs.store.put(made)
        return made

    async def change(self, name: str = "bot", **spec: Any) -> Object:
        """Change members of a job's spec."""
        return await self.client.patch(JOBS, self.namespace, name, {"spec": spec})

    async def delete(self, name: str = "bot") -> None:
        """Ask for the deletion of a job."""
        await self.client.delete(JOBS, self.namespace, name)

    async def gone(self, name: str = "bot") -> None:
        """Wait until the job and all that belonged to it is gone."""
        await self.player.until(lambda: self.player.job(name) is None, f"{name} gone")
        await self._no_children()

    async def children(self) -> list[Object]:
        """Everything in the namespace that belongs to a job."""
        return [one for resource in CHILDREN for one in await self._all(resource)]

    async def outcome(self, name: str = "bot") -> Object:
        """What a job came to and what there is of it, without times, uids, and what a lost report would change.

        Messages, progress and commits are left out: reports are told once, and an operator that has just begun may have
        missed them.
        """
        found = self.player.job(name)
        children = [(one["kind"], _plain(one)) for one in await self.children()]
        status = (found or {}).get("status") or {}
        attempts = status.get("attempts") or ()
        return {
            "job": found is not None,
            "phase": status.get("phase"),
            "conditions": [
                (one["type"], one["status"], one["reason"])
                for one in status.get("conditions") or ()
                if one["type"] != "CheckpointFresh"
            ],
            "attempts": [(one["number"], one.get("outcome"), one.get("reason")) for one in attempts],
            "failures": status.get("failures"),
            "stop": status.get("stop"),
            "finalizers": (found or {}).get("metadata", {}).get("finalizers"),
            "children": sorted(children),
        }

    async def clear(self) -> None:
        """Remove every job, with force, and wait until nothing is left."""
        for found in self.player.jobs.store.all():
            name = found["metadata"]["name"]
            with suppress(NotFound):
                await self.client.patch(JOBS, self.namespace, name, {"metadata": {"finalizers": None}})
                await self.client.delete(JOBS, self.namespace, name)
        await self.player.until(lambda: not self.player.jobs.store.all(), "no jobs")
        await self.player.cleared()
        await self._no_children()

    async def _no_children(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.children():
                await asyncio.sleep(0.05)

    async def _all(self, resource: Resource) -> list[Object]:
        pages = self.client.pages(resource, namespace=self.namespace, selector=JOB_UID)
        return [item async for page in pages for item in page.items]


def _plain(found: Object) -> str:
    """A child's name without the part that is made of its job's uid."""
    uid = found["metadata"]["labels"][JOB_UID]
    name: str = found["metadata"]["name"]
    return name.replace(hashlib.sha256(uid.encode()).hexdigest()[:5], "xxxxx")


@asynccontextmanager
async def staged(
    plane: ControlPlane,
    namespace: str,
    *plots: Plot,
    kubeconfig: Path | None = None,
    kuberay: bool = False,
    replica: Replica | None = None,
) -> AsyncIterator[Stage]:
    """A stage on which the operator is not running yet; nothing is left on it afterwards. `kuberay`: the real one.

    `replica` is the operator of another stage, which works on this one too.
    """
    replica = replica or Replica(kubeconfig or plane.kubeconfig(), namespace)
    async with await Client.connect(str(plane.kubeconfig()), qps=1000, burst=2000) as client:
        player = Player(client, namespace, *plots, port=lambda: replica.port, kuberay=kuberay)
        playing = asyncio.create_task(player.run())
        stage = Stage(client, player, replica, namespace)
        try:
            await asyncio.gather(*(one.synced.wait() for one in (player.jobs, player.ray_jobs, player.pods)))
            yield stage
            assert player.trouble == []
        finally:
            if replica.running:
                await replica.stop()
            await expire_lease(client, namespace)
            await stage.clear()
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)


def on_stage(
    plane: ControlPlane,
    namespace: str,
    script: Callable[[Stage], Awaitable[None]],
    *plots: Plot,
    kubeconfig: Path | None = None,
) -> None:
    """Run a script with the operator running."""

    async def main() -> None:
        async with staged(plane, namespace, *plots, kubeconfig=kubeconfig) as stage:
            stage.replica.start()
            await script(stage)

    asyncio.run(asyncio.wait_for(main(), 240))
