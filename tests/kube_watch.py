"""A watch that goes through the proxy: events pass one by one, and can be stalled, left out, or ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

Event = dict[str, Any]
MayPass = Callable[[str, bytes], Awaitable[bool]]


async def lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a stream into its lines, each with its end; a last line that has none is given as it is."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


class Watch:
    """An open watch of `resource`, delivered to `response`; `may_pass(resource, line)` is asked about each event."""

    def __init__(self, resource: str, response: web.StreamResponse, may_pass: MayPass) -> None:
        self.resource = resource
        self._response, self._may_pass = response, may_pass
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._ended: asyncio.Future[tuple[Event | None, bool]] = asyncio.get_running_loop().create_future()

    def stall(self) -> None:
        """Say nothing from now on; the connection stays open."""
        self._flowing.clear()

    def resume(self) -> None:
        """Go on, with what came meanwhile."""
        self._flowing.set()

    def end(self, last: Event | None = None, *, reset: bool = False) -> None:
        """End it with this last event, if any, in order or with a TCP reset."""
        if not self._ended.done():
            self._ended.set_result((last, reset))

    async def run(self, source: AsyncIterator[bytes]) -> bool:
        """Deliver events until `source` ends or `end` is called; return whether the connection is to be reset."""
        delivery = asyncio.ensure_future(self._deliver(source))
        try:
            first: list[asyncio.Future[Any]] = [delivery, self._ended]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not delivery.done():
                delivery.cancel()
        if not self._ended.done():
            delivery.result()
            return False
        last, reset = self._ended.result()
        if last is not None:
            await self._response.write(json.dumps(last).encode() + b"\n")
        return reset

    async def _deliver(self, source: AsyncIterator[bytes]) -> None:
        async for line in lines(source):
            await self._flowing.wait()
            if await self._may_pass(self.resource, line):
                await self._response.write(line)
