"""The load of the scale bench, the same for every operator: creates objects, counts them, reads how much was written.

It speaks through the operator's own transport, since that costs little, with bodies made before the clock runs.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import psutil

from bench.scale_contestants import HOME, NAMESPACE, Contestant
from child import Child
from control_plane import ControlPlane
from finetune_operator.kube import Client, Resource
from finetune_operator.kube.config import find_access
from finetune_operator.kube.resources import NAMESPACES
from finetune_operator.kube.transport import Request, Transport

IN_FLIGHT = 32
PAUSE = 0.1
"""Seconds between two looks: what a measured time is too long by, at most."""

UNLIMITED = 1e6
MIB = 1 << 20
WRITING = {"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"}
NOT_COUNTED = {"leases", "flowschemas", "prioritylevelconfigurations"}
"""The lease of each operator, and what the API server writes for itself."""

REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
Condition = Callable[[], Awaitable[bool]]
LABEL = re.compile(r'(\w+)="([^"]*)"')
T = TypeVar("T")


@dataclass(frozen=True)
class Load:
    """Connections to one control plane, without a limit. `client` is for what `transport` is too plain for."""

    plane: ControlPlane
    client: Client
    transport: Transport

    async def for_each(self, items: Iterable[T], work: Callable[[T], Awaitable[object]]) -> None:
        """Do the work for each item, IN_FLIGHT at a time; items are made when it is their turn."""
        left = iter(items)

        async def worker() -> None:
            for item in left:
                await work(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(worker())

    async def count(self, resource: Resource) -> int:
        """How many objects of a kind there are: the first one comes, and the API server says how many remain."""
        request = Request("list", resource, resource.path(NAMESPACE), {"limit": "1"})
        found = await self.transport.send(request)
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))

    async def until(self, condition: Condition, operator: Child | None = None, patience: float = 300) -> None:
        """Return once the condition holds; RuntimeError when the operator ends, TimeoutError when it takes too long."""
        async with asyncio.timeout(patience):
            while not await condition():
                if operator is not None:
                    operator.check()
                await asyncio.sleep(PAUSE)

    def writes(self) -> Counter[str]:
        """How many writes the API server has taken so far, by verb and resource, those that it refused included."""
        return writes_in(self.plane.kubectl("get", "--raw", "/metrics"))

    async def quiet(self, seconds: float = 3.0) -> Counter[str]:
        """Wait until nobody has written anything but events for so long; return the writes so far."""
        before, now = 0, self.writes()
        while without_events(now) != before:
            await asyncio.sleep(seconds)
            before, now = without_events(now), self.writes()
        return now


def writes_in(metrics: str) -> Counter[str]:
    """The writes that an API server's metrics tell of, by verb and resource; LookupError when they tell of none."""
    found: Counter[str] = Counter()
    for labels, value in REQUESTS.findall(metrics):
        label = dict(LABEL.findall(labels))
        if label["verb"] in WRITING and label["resource"] not in NOT_COUNTED:
            part = f"/{label['subresource']}" if label["subresource"] else ""
            found[f"{label['verb']} {label['resource']}{part}"] += int(float(value))
    if not found:
        raise LookupError("the metrics have no writes in apiserver_request_total; were its labels renamed?")
    return found


def without_events(writes: Mapping[str, int]) -> int:
    """How many they are, besides events."""
    return sum(count for name, count in writes.items() if not name.endswith(" events"))


def cpu_seconds(process: psutil.Process) -> float:
    """The processor time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def loading(plane: ControlPlane, contestant: Contestant) -> AsyncIterator[Load]:
    """A load on a control plane that has the contestant's runtime and the namespaces."""
    access = await find_access(str(plane.kubeconfig()))
    transport = Transport(access, UNLIMITED, int(UNLIMITED), None)
    try:
        async with Client(access, UNLIMITED, int(UNLIMITED)) as client:
            for name in (HOME, NAMESPACE):
                await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            await client.create(contestant.runtime, contestant.runtime_body())
            yield Load(plane, client, transport)
    finally:
        await transport.close()


async def started(load: Load, contestant: Contestant, warm_up: int = 20) -> Child:
    """Start the operator and return when it has taken its first jobs."""
    operator = contestant.process(load.plane)
    operator.start()
    for number in range(warm_up):
        await load.client.create(contestant.job, contestant.job_body(f"warm-up-{number}"))

    async def done() -> bool:
        return await load.count(contestant.child) >= warm_up

    await load.until(done, operator, patience=60)
    return operator
