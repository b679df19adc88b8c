"""Keeps a store equal to what the API server has of one kind: list once, then watch, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from finetune_operator.core import metrics
from finetune_operator.core.backoff import Backoff
from finetune_operator.core.store import Index, OnChange, Store
from finetune_operator.kube import (
    ApiError,
    Client,
    Forbidden,
    Gone,
    NotFound,
    Object,
    Resource,
    Unreachable,
    WatchEvent,
)
from finetune_operator.kube.client import STALL_SECONDS

RETRIES = Backoff(first=0.5, longest=30.0)


@dataclass(frozen=True)
class Patience:
    """How long to wait for the API server: before it is asked again, and for a word on a watch, in seconds."""

    retries: Backoff = RETRIES
    stall: float = STALL_SECONDS
    clock: Callable[[], float] = time.monotonic


DEFAULT_PATIENCE = Patience()

logger = logging.getLogger(__name__)


def strip_managed_fields(obj: Object) -> Object:
    """Drop what nobody reads and what is half of many objects."""
    obj["metadata"].pop("managedFields", None)
    return obj


class Informer:
    """A list and a watch of one kind that never end.

    `on_change` is what Store calls; until `synced` is set, it reports what the first list finds. Nothing is lost: what
    was deleted while the API server could not be reached is reported when it can be again. `trouble` says for people
    why the store may not be current, "" when it is; `known` is False while the API server does not know the kind.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespace: str | None = None,
        selector: str | None = None,
        indices: Mapping[str, Index] | None = None,
        trim: Callable[[Object], Object] = strip_managed_fields,
        on_change: OnChange = lambda old, new: None,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        self.resource = resource
        self.store = Store(indices, trim, on_change)
        self.synced = asyncio.Event()
        self.trouble = ""
        self.known = True
        self._client = client
        self._namespace = namespace
        self._selector = selector
        self._patience = patience
        self._contact: float | None = None
        self._version = ""  # up to where the store is current; empty: list first
        self._failures = 0
        metrics.CACHED_OBJECTS.labels(resource.plural).set_function(lambda: len(self.store))

    def silence(self) -> float:
        """Return the seconds since the API server last showed that the store is current, or could not be.

        None have passed before it did so once: a process that has just begun would hear no more if it began anew.
        """
        return 0.0 if self._contact is None else self._patience.clock() - self._contact

    async def run(self) -> None:
        """Follow the API server until cancelled."""
        while True:
            try:
                await self._follow()
            except ApiError as error:
                await asyncio.sleep(self._wait_after(error))

    async def _follow(self) -> None:
        if not self._version:
            await self._list()
        while True:
            await self._watch()

    async def _list(self) -> None:
        uids: list[str] = []
        version = ""
        async with aclosing(
            self._client.pages(self.resource, namespace=self._namespace, selector=self._selector)
        ) as pages:
            async for page in pages:
                self._contact = self._patience.clock()
                version = page.resource_version
                for obj in page.items:
                    uids.append(obj["metadata"]["uid"])
                    self.store.put(obj)
        self.store.keep(uids, version)
        self._version = version
        self.trouble, self.known = "", True
        self.synced.set()

    async def _watch(self) -> None:
        """Take what happens from where the store is on, until the server ends the watch."""
        told = False
        async with self._client.watch(
            self.resource, self._version, namespace=self._namespace, selector=self._selector, stall=self._patience.stall
        ) as events:
            self._contact = self._patience.clock()
            self.trouble = ""
            async for event in events:
                self._contact = self._patience.clock()
                self._failures = 0
                self._take(event)
                told = True
        if not told:  # even of a quiet kind the server sends a bookmark before it ends a watch
            raise Unreachable(f"the watch of {self.resource.plural} ended without a word")

    def _take(self, event: WatchEvent) -> None:
        if event.type == "DELETED":
            self.store.deleted(event.object)
        elif event.type != "BOOKMARK":
            self.store.put(event.object)
        self._version = event.object["metadata"]["resourceVersion"]

    def _wait_after(self, error: ApiError) -> float:
        """Note what ended a watch or list; return the seconds to wait before the next."""
        if isinstance(error, Gone):
            self._version = ""
        if isinstance(error, Forbidden | NotFound):  # starting this process anew would not help
            self._contact = self._patience.clock()
        self.trouble, self.known = self._said(error), not isinstance(error, NotFound)
        self._failures += 1
        asked = min(error.retry_after or 0.0, self._patience.retries.longest)
        wait = max(self._patience.retries.seconds(self._failures), asked)
        metrics.WATCH_RESTARTS.labels(self.resource.plural, type(error).__name__).inc()
        level = logging.INFO if isinstance(error, Gone) or self._failures == 1 else logging.WARNING
        logger.log(level, "following %s again in %.1f s, after %s", self.resource.plural, wait, self.trouble)
        return wait

    def _said(self, error: ApiError) -> str:
        """An error of a list or watch, and what to do about it if that is known."""
        if not isinstance(error, NotFound):
            return str(error)
        kind = f"{self.resource.kind} ({self.resource.api_version})"
        return f"the cluster has no kind {kind}: install {self.resource.provider}"
