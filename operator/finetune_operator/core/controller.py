"""Workers that take keys from a queue and call one function for each, for ever."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Generic, TypeVar

from finetune_operator.core import metrics
from finetune_operator.core.lease import NotLeading
from finetune_operator.core.logs import about
from finetune_operator.core.workqueue import WorkQueue
from finetune_operator.kube import ApiError, Conflict

K = TypeVar("K", bound=Hashable)

logger = logging.getLogger(__name__)


class Controller(Generic[K]):
    """`workers` tasks that call `reconcile` for the keys of `queue`, one at a time for each key; half of them for those
    of the highest priority only, so that these never wait for long work on others.

    `reconcile` brings what is there closer to what is wanted and returns after how many seconds it wants to be called
    again for that key; None: when something happens. What it raises is logged, counted and tried again, later each
    time. `name` is what the metrics call it; `fields` are those of every line that is logged for a key.
    """

    def __init__(
        self,
        queue: WorkQueue[K],
        workers: int,
        reconcile: Callable[[K], Awaitable[float | None]],
        *,
        name: str = "jobs",
        fields: Callable[[K], Mapping[str, object]] = lambda key: {},
    ) -> None:
        self._name = name
        self._queue = queue
        self._workers = workers
        self._reconcile = reconcile
        self._fields = fields

    async def run(self) -> None:
        """Work until cancelled. A reconcile that is running then is cancelled, as a crash would end it."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(urgent=number % 2 == 1))

    async def _work(self, urgent: bool) -> None:
        while True:
            key = await self._queue.get(urgent)
            try:
                with about(**self._fields(key)):
                    await self._call(key)
            finally:
                self._queue.done(key)

    async def _call(self, key: K) -> None:
        started = time.monotonic()
        result = "error"
        try:
            after = await self._reconcile(key)
        except (Conflict, NotLeading) as error:  # what was missed is on its way, or another replica goes on
            result = "conflict"
            logger.info("%s: again in %.1f s, after %s", key, self._queue.retry(key), error)
        except ApiError as error:
            logger.warning("%s: again in %.1f s, after %s", key, self._queue.retry(key), error)
        except Exception:
            logger.exception("%s: again in %.1f s", key, self._queue.retry(key))
        else:
            result = "success"
            self._queue.forget(key)
            if after is not None:
                self._queue.add(key, after=after)
        finally:
            metrics.RECONCILE_SECONDS.labels(self._name, result).observe(time.monotonic() - started)
