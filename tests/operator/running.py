"""The real operator in this event loop: started through any kubeconfig, killed as by a crash, started anew."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from finetune_operator import application, reconcile
from finetune_operator.core import Informer, WorkQueue, metrics
from finetune_operator.core.backoff import Backoff
from finetune_operator.core.informer import Patience
from finetune_operator.kube import ApiError, Client, NotFound
from finetune_operator.kube.resources import LEASES
from finetune_operator.policy import budget
from finetune_operator.progress import mailbox, secret
from finetune_operator.settings import Settings

PREFIX = "finetune.dev/jobs"
RETRIES = Backoff(0.02, 0.5)


def quick(patch: pytest.MonkeyPatch, retries: Backoff = RETRIES) -> None:
    """Let everything that is waited for come soon; nothing decides differently for it."""
    patch.setattr(budget, "FIRST_PAUSE", timedelta(0))
    patch.setattr(mailbox, "INTERVAL", 0.02)
    patch.setattr(mailbox, "URGENT_INTERVAL", 0.01)
    patch.setattr(secret, "RETRIES", Backoff(0.02, 0.2))
    patch.setattr(reconcile, "REFUSED_AGAIN", 0.2)
    patch.setattr(application, "WORKLOAD_PAUSE", 0.02)
    patch.setattr(application, "WorkQueue", partial(WorkQueue, retries=retries))
    patch.setattr(application, "Informer", partial(Informer, patience=Patience(retries=Backoff(0.02, 0.2))))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


async def health(port: int, path: str) -> tuple[int, str]:
    """Status and text of an answer of a replica that has this health port, once it listens."""
    async with aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientConnectionError):
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    return answer.status, await answer.text()
            await asyncio.sleep(0.02)


class Replica:
    """One replica of the operator. It is started again when it ends with an error, as a kubelet would do."""

    def __init__(self, kubeconfig: Path, home: str, identity: str = "one") -> None:
        self.kubeconfig, self.home, self.identity = kubeconfig, home, identity
        self.port, self.health_port = free_port(), 0
        self.kueue = False
        self.ends: list[Exception] = []
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run until `stop` or `kill`."""
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End it in order: the lease is given back."""
        self._stop.set()
        await self._end()

    async def kill(self) -> None:
        """End it wherever it is. What it could still send on the way out must have been cut off before."""
        assert self._task is not None
        self._task.cancel()
        await self._end()

    @property
    def running(self) -> bool:
        """Whether it was started and not ended."""
        return self._task is not None

    async def leads(self) -> None:
        """Wait until a replica of this process leads."""
        async with asyncio.timeout(20):
            while not metrics.REGISTRY.get_sample_value("finetune_leader"):
                await asyncio.sleep(0.02)

    @property
    def settings(self) -> Settings:
        """What it is told."""
        return Settings(
            kubeconfig=str(self.kubeconfig),
            namespace=self.home,
            identity=self.identity,
            address="localhost",
            service="localhost",
            progress_port=self.port,
            health_port=self.health_port,
            workers=4,
            qps=1000,
            burst=2000,
            kuberay_namespace="",
            metrics_namespace="",
            audience_prefix=PREFIX,
            kueue=self.kueue,
            log_level="INFO",
        )

    async def _end(self) -> None:
        assert self._task is not None
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                async with await Client.connect(str(self.kubeconfig), qps=1000, burst=2000) as client:
                    await application.run(self.settings, self._stop, client)
            except (ApiError, OSError) as error:
                self.ends.append(error)
                await asyncio.sleep(0.05)  # a kubelet's pause, shorter


async def expire_lease(direct: Client, home: str) -> None:
    """What 15 s without its leader do to a lease."""
    with suppress(NotFound):
        await direct.delete(LEASES, home, application.LEASE)
