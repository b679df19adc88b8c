"""ConfigMaps for tests of the operator's core, and what an informer reports of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from finetune_operator.core.backoff import Backoff
from finetune_operator.core.informer import Informer, Patience
from finetune_operator.core.metrics import REGISTRY
from finetune_operator.kube import Client, Object
from finetune_operator.kube.resources import CONFIGMAPS
from kube_proxy import KubeProxy

LABEL = "finetune.dev/test"
WAIT_SECONDS = 30.0


def config_map(namespace: str, name: str, value: str = "1") -> Object:
    """A ConfigMap that the informer of `following` sees."""
    metadata = {"namespace": namespace, "name": name, "labels": {LABEL: "yes"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}}


class Changes:
    """What was reported, as `+name=value`, `name=value` for changes and `-name`."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self.seen.append(f"-{old['metadata']['name']}")
        else:
            sign = "+" if old is None else ""
            self.seen.append(f"{sign}{new['metadata']['name']}={new['data']['value']}")
        self._news.set()

    async def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the reports so far fulfil a condition, and return them."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition(self.seen):
                self._news.clear()
                await self._news.wait()
        return self.seen


@asynccontextmanager
async def following(
    kubeconfig: Path, namespace: str, patience: Patience | None = None
) -> AsyncIterator[tuple[Client, Informer, Changes]]:
    """A client and a synced informer of the ConfigMaps of a namespace, with what it reports."""
    changes = Changes()
    async with await Client.connect(str(kubeconfig)) as client:
        informer = Informer(
            client,
            CONFIGMAPS,
            namespace=namespace,
            selector=LABEL,
            on_change=changes,
            patience=patience or Patience(),
        )
        running = asyncio.create_task(informer.run())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await informer.synced.wait()
            yield client, informer, changes
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


QUICK = Patience(retries=Backoff(0.02, 0.1))
Body = Callable[[Client, Informer, Changes], Awaitable[None]]


def follow(kubeconfig: Path, namespace: str, body: Body, patience: Patience = QUICK) -> None:
    async def main() -> None:
        async with following(kubeconfig, namespace, patience) as (client, informer, changes):
            await body(client, informer, changes)

    asyncio.run(asyncio.wait_for(main(), 60))


async def by_others(direct: Path, *steps: Callable[[Client], Awaitable[object]]) -> None:
    """Let somebody else do something at the API server."""
    async with await Client.connect(str(direct)) as client:
        for step in steps:
            await step(client)


async def opened(proxy: KubeProxy) -> None:
    """Wait until the informer's watch is open."""
    while not proxy.watches:
        await asyncio.sleep(0.01)


def make(namespace: str, name: str, value: str = "1") -> Callable[[Client], Awaitable[object]]:
    return lambda client: client.create(CONFIGMAPS, config_map(namespace, name, value))


def change(namespace: str, name: str, value: str) -> Callable[[Client], Awaitable[object]]:
    return lambda client: client.patch(CONFIGMAPS, namespace, name, {"data": {"value": value}})


def delete(namespace: str, name: str) -> Callable[[Client], Awaitable[object]]:
    return lambda client: client.delete(CONFIGMAPS, namespace, name)


def restarts(reason: str) -> float:
    labels = {"resource": "configmaps", "reason": reason}
    return REGISTRY.get_sample_value("finetune_watch_restarts_total", labels) or 0.0
