"""Kubernetes events: what `kubectl describe` tells of a job, written behind the back of whoever reports it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from finetune_operator.core import metrics
from finetune_operator.core.controller import Controller
from finetune_operator.core.store import Key, key_of
from finetune_operator.core.workqueue import WorkQueue
from finetune_operator.kube import UNAVAILABLE, AlreadyExists, ApiError, Client, Conflict, Object, Unauthorized
from finetune_operator.kube.resources import EVENTS

CONTROLLER = "finetune.dev/operator"
WORKERS = 4
MOST_TRIES = 5
MOST_WAITING = 10_000
SERIES_SECONDS = 60.0
"""An event that happens again is written at most this often."""

MOST_BYTES_OF_A_NOTE = 1024
"""What the API server takes."""

LATER = (Conflict, Unauthorized, *UNAVAILABLE)
"""Refusals that may be none the next time."""

logger = logging.getLogger(__name__)


@dataclass
class _Waiting:
    body: Object
    count: int = 1
    tries: int = 0


class EventRecorder:
    """Writes events, of core/v1 because `kubectl describe` orders by a time that only they have.

    Give it a client of its own (`Client.separate`).

    An event that is reported again, even by another process, raises the count of the one that is there. What is too
    much to hold, or is refused, is dropped and counted: nothing ever waits for an event.
    """

    def __init__(self, client: Client, instance: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._instance = instance[:128]
        self._clock = clock
        self._queue: WorkQueue[Key] = WorkQueue(clock=clock)
        self._waiting: dict[Key, _Waiting] = {}
        self._written: dict[Key, float] = {}

    def event(self, regarding: Object, type: Literal["Normal", "Warning"], reason: str, note: str, action: str) -> None:
        """Report what happened to an object: `reason` in one word, `note` in a sentence, `action` as what was done."""
        body = event_body(regarding, type, reason, note, action, self._instance)
        key = key_of(body)
        if key in self._waiting:
            self._waiting[key].count += 1
            self._waiting[key].body = body
        elif len(self._waiting) >= MOST_WAITING:
            metrics.EVENTS.labels("dropped").inc()
        else:
            self._waiting[key] = _Waiting(body)
            self._queue.add(key, after=self._written.get(key, -SERIES_SECONDS) + SERIES_SECONDS - self._clock())

    async def run(self) -> None:
        """Write events until cancelled."""
        await Controller(self._queue, WORKERS, self._write, name="events").run()

    async def _write(self, key: Key) -> float | None:
        waiting = self._waiting[key]
        count = waiting.count
        try:
            await self._create_or_count(waiting.body, count)
        except ApiError as error:
            waiting.tries += 1
            if isinstance(error, LATER) and waiting.tries < MOST_TRIES:
                raise
            logger.info("dropped an event of %s: %s", key, error)
            metrics.EVENTS.labels("dropped").inc()
        else:
            metrics.EVENTS.labels("written").inc()
        self._remember(key)
        waiting.count -= count
        if waiting.count:  # it happened again meanwhile
            return SERIES_SECONDS
        del self._waiting[key]
        return None

    async def _create_or_count(self, body: Object, count: int) -> None:
        try:
            await self._client.create(EVENTS, body | {"count": count})
        except AlreadyExists:
            namespace, name = key_of(body)
            found = await self._client.get(EVENTS, namespace, name)
            again = {"count": found.get("count", 1) + count, "lastTimestamp": body["lastTimestamp"]}
            metadata = {"resourceVersion": found["metadata"]["resourceVersion"]}
            await self._client.patch(EVENTS, namespace, name, {"metadata": metadata} | again)

    def _remember(self, key: Key) -> None:
        now = self._clock()
        self._written[key] = now
        if len(self._written) > MOST_WAITING:
            self._written = {key: at for key, at in self._written.items() if now - at < SERIES_SECONDS}


def event_body(regarding: Object, type: str, reason: str, note: str, action: str, instance: str) -> Object:
    """Return the Event object; the same happening to the same object has the same name."""
    metadata = regarding["metadata"]
    namespace = metadata.get("namespace")
    same = "\0".join([metadata["uid"], type, reason, note, action])
    reference = {
        field: metadata[field] for field in ("namespace", "name", "uid", "resourceVersion") if field in metadata
    }
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {
            "namespace": namespace or "default",
            "name": f"{metadata['name'][:200]}.{hashlib.sha256(same.encode()).hexdigest()[:16]}",
        },
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": CONTROLLER},
        "reportingComponent": CONTROLLER,
        "reportingInstance": instance,
        "action": action,
        "reason": reason,
        "involvedObject": {"apiVersion": regarding["apiVersion"], "kind": regarding["kind"]} | reference,
        "message": note.encode()[:MOST_BYTES_OF_A_NOTE].decode(errors="ignore"),
        "type": type,
    }
