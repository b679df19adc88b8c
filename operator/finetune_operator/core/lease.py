"""One leader among the replicas, by a Lease object; clocks of different machines are never compared."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from finetune_operator.core import metrics
from finetune_operator.kube import AlreadyExists, ApiError, Client, Conflict, NotFound, Object
from finetune_operator.kube.resources import LEASES

logger = logging.getLogger(__name__)


class NotLeading(Exception):
    """This replica may not write now: it is not the leader, or could not show in time that it still is."""


@dataclass(frozen=True)
class Record:
    """What a Lease object says: who holds it and for how many seconds after each renewal."""

    version: str
    holder: str
    duration: float
    transitions: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)


def read_record(obj: Object) -> Record:
    """Read a Lease object."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    return Record(
        version=metadata["resourceVersion"],
        holder=spec.get("holderIdentity") or "",
        duration=spec.get("leaseDurationSeconds") or 0,
        transitions=spec.get("leaseTransitions") or 0,
        annotations=metadata.get("annotations") or {},
    )


class Sightings:
    """When this replica saw the lease change, by its own clock: a lease that has not changed for its duration is free.

    Its leader stopped before that, because it counts a shorter time from before its last renewal was sent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = 0.0
        self.record: Record | None = None

    def see(self, obj: Object) -> Record:
        """Take a Lease object that was just received."""
        record = read_record(obj)
        if self.record is None or record.version != self.record.version:
            self._since = self._clock()
        self.record = record
        return record

    def free_for(self, identity: str) -> bool:
        """Return whether `identity` may try to take the lease that was seen last."""
        if self.record is None:
            return False
        unheld = self.record.holder in ("", identity)
        return unheld or self._clock() >= self._since + self.record.duration


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds. Others may take over `duration` after the last renewal that they saw. The leader asks for one every
    `period`, and stops `renew` after it asked for the last one that was granted."""

    duration: int = 15
    renew: float = 10.0
    period: float = 2.0

    def __post_init__(self) -> None:
        if not self.period < self.renew < self.duration:
            raise ValueError(f"{self}: period < renew < duration does not hold, so two could lead at a time")


DEFAULT_TIMES = LeaseTimes()


class Lease:
    """Runs something on one replica at a time.

    `identity` must differ between processes, also of one pod. `annotations` tell the others about the leader, in
    `record`. It has connections of its own, so that load cannot starve it.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        times: LeaseTimes = DEFAULT_TIMES,
        annotations: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._annotations = dict(annotations or {})
        self._clock = clock
        self._sightings = Sightings(clock)
        self._until = clock()

    @property
    def is_leader(self) -> bool:
        """Whether this replica may write now."""
        return self._clock() < self._until

    @property
    def record(self) -> Record | None:
        """The lease as it was last seen, at most about `period` seconds ago while the API server can be reached."""
        return self._sightings.record

    def assert_leading(self) -> None:
        """Raise NotLeading unless this replica may write now. To be called right before each write."""
        if not self.is_leader:
            raise NotLeading(f"{self._identity} does not hold the lease {self._namespace}/{self._name}")

    async def run(self, lead: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Call `lead` whenever this replica becomes the leader, until it returns or raises.

        It is cancelled, and waited for, when the lease is lost or this is cancelled; then the lease is given back.
        """
        async with self._client.separate() as client:
            while True:
                while not await self._try(self._claim(client), self._times.renew / 2):
                    await asyncio.sleep(self._times.period * random.uniform(0.8, 1.2))
                logger.info("%s leads", self._identity)
                if await self._lead(client, lead):
                    return
                logger.warning("%s leads no more: it could not renew the lease in time", self._identity)

    async def _lead(self, client: Client, lead: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run `lead` while the lease is held; return whether it ended by itself."""
        leading = asyncio.create_task(lead())
        keeping = asyncio.create_task(self._keep(client))
        metrics.LEADER.set(1)
        try:
            done, _ = await asyncio.wait({leading, keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            held, self._until = self.is_leader, self._clock()
            metrics.LEADER.set(0)
            leading.cancel()
            keeping.cancel()
            await asyncio.gather(leading, keeping, return_exceptions=True)
            if held:
                await self._try(self._patch(client, {"holderIdentity": "", "renewTime": _now()}), self._times.period)
        for task in done:
            await task
        return leading in done

    async def _keep(self, client: Client) -> None:
        """Renew the lease until it is lost."""
        while (left := self._until - self._clock()) > 0:
            await asyncio.sleep(min(self._times.period, left))
            left = self._until - self._clock()
            await self._try(self._renew_once(client), min(self._times.renew / 2, left))

    async def _try(self, step: Coroutine[Any, Any, bool], seconds: float) -> bool:
        """Take a step that may last so long; False when it failed for now."""
        try:
            async with asyncio.timeout(seconds):
                return await step
        except (ApiError, TimeoutError) as error:
            logger.warning("lease %s/%s: %s", self._namespace, self._name, str(error) or "no answer in time")
            return False

    async def _claim(self, client: Client) -> bool:
        record = await self._read(client)
        if record is not None and not self._sightings.free_for(self._identity):
            return False
        started = self._clock()
        transitions = 0 if record is None else record.transitions + 1
        spec = {"holderIdentity": self._identity, "leaseDurationSeconds": self._times.duration, "acquireTime": _now()}
        spec |= {"renewTime": _now(), "leaseTransitions": transitions}
        try:
            await (self._create(client, spec) if record is None else self._patch(client, spec))
        except (AlreadyExists, Conflict):  # another one was quicker
            return False
        self._until = started + self._times.renew
        return True

    async def _renew_once(self, client: Client) -> bool:
        started = self._clock()
        try:
            await self._patch(client, {"renewTime": _now()})
        except Conflict:
            record = await self._read(client)
            if record is None or record.holder != self._identity:
                self._until = started
            return False
        self._until = started + self._times.renew
        return True

    async def _read(self, client: Client) -> Record | None:
        try:
            return self._sightings.see(await client.get(LEASES, self._namespace, self._name))
        except NotFound:
            return None

    async def _create(self, client: Client, spec: Object) -> bool:
        metadata = {"namespace": self._namespace, "name": self._name, "annotations": self._annotations}
        body = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
        self._sightings.see(await client.create(LEASES, body))
        return True

    async def _patch(self, client: Client, spec: Object) -> bool:
        """Write into the lease if nobody else has since it was seen last; raises Conflict otherwise."""
        version = self._sightings.record.version if self._sightings.record is not None else ""
        patch = {"metadata": {"resourceVersion": version, "annotations": self._annotations}, "spec": spec}
        self._sightings.see(await client.patch(LEASES, self._namespace, self._name, patch))
        return True


def _now() -> str:
    """Return the time for people to read; nothing is decided by it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
