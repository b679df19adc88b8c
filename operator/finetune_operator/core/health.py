"""Is this process well, is it ready, and what does it count: /healthz, /readyz and /metrics over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from finetune_operator.core import metrics
from finetune_operator.core.informer import Informer

Check = Callable[[], str | None]
"""Returns what is wrong, None if nothing is."""

MOST_LAG_SECONDS = 5.0
MOST_SILENCE_SECONDS = 120.0
TICK_SECONDS = 0.5


class LoopLag:
    """Measures how late the event loop runs what is due."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = clock()
        self._last = 0.0

    def seconds(self) -> float:
        """Return the last lag, or the one that is going on."""
        return max(self._last, self._clock() - self._due)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self.plan()
            await asyncio.sleep(TICK_SECONDS)
            self.ran()
            metrics.LOOP_LAG_SECONDS.set(self._last)

    def plan(self) -> None:
        """Note that something is to run after TICK_SECONDS."""
        self._due = self._clock() + TICK_SECONDS

    def ran(self) -> None:
        """Note that it runs now."""
        self._last = max(0.0, self._clock() - self._due)

    def check(self) -> str | None:
        """Say so when the loop is too late for anything to work in time."""
        lag = self.seconds()
        return None if lag <= MOST_LAG_SECONDS else f"the event loop is {lag:.1f} s late"


def fresh(informer: Informer) -> Check:
    """Return a check that the API server was heard of lately."""

    def check() -> str | None:
        silence = informer.silence()
        wrong = f"nothing was heard of {informer.resource.plural} for {silence:.0f} s"
        return None if silence <= MOST_SILENCE_SECONDS else wrong

    return check


def synced(informer: Informer) -> Check:
    """Return a check that the first list is through."""

    def check() -> str | None:
        why = f": {informer.trouble}" if informer.trouble else ""
        return None if informer.synced.is_set() else f"{informer.resource.plural} are not listed yet{why}"

    return check


def health_app(live: Mapping[str, Check], ready: Mapping[str, Check]) -> web.Application:
    """Return the application: 200 while all checks pass, else 503 with what is wrong, one line each."""

    def answer_with(checks: Mapping[str, Check]) -> Handler:
        async def answer(_: web.Request) -> web.Response:
            wrong = [f"{name}: {found}" for name, check in checks.items() if (found := check()) is not None]
            return web.Response(text="\n".join(wrong) or "ok", status=503 if wrong else 200)

        return answer

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", answer_with(live))
    app.router.add_get("/readyz", answer_with(ready))
    app.router.add_get("/metrics", show_metrics)
    return app
