"""One request on its way through the proxy: what the action of a fault works on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from faults import reset_when_closed
from kube_request import KubeRequest
from kube_watch import Watch

if TYPE_CHECKING:
    from kube_proxy import KubeProxy

# Between one connection's two ends only. Compression too: an answer that is looked into is not compressed.
NOT_PASSED = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "accept-encoding"}
Action = Callable[["Exchange"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Answer:
    """A whole answer of the API server."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    def response(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


def passed(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers that go from one end to the other."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in NOT_PASSED)


class Exchange:
    """A client's request (`seen`: what it is about), and what can be done with it."""

    def __init__(self, proxy: KubeProxy, request: web.Request, seen: KubeRequest) -> None:
        self.proxy, self.request, self.seen = proxy, request, seen

    async def pass_on(self) -> web.StreamResponse:
        """Do the request at the API server and give its answer; a watch lasts as long as both sides want."""
        if self.seen.verb == "watch":
            return await self.watch()
        if self.proxy.frozen is not None and self.proxy.frozen.answers(self.seen):
            return await self.proxy.frozen.answer(self)
        return (await self.forward()).response()

    async def forward(self) -> Answer:
        """Do the request at the API server and return its whole answer."""
        if not self.seen.is_step or self.proxy.on_write is None:
            return await self._forward()
        async with self.proxy.one_write:
            if self.proxy.is_cut:  # while this one waited
                raise ConnectionResetError
            return await self._forward()

    async def _forward(self) -> Answer:
        answer = await self.fetch(self.request.raw_path, await self.request.read())
        if self.seen.is_step and answer.status < 300:
            self.proxy.wrote(self.seen)
        return answer

    async def fetch(self, target: str, body: bytes | None = None) -> Answer:
        """Send the client's method, headers and this body to another path and query of the API server."""
        async with self._asking(target, body) as answer:
            return Answer(answer.status, passed(answer.headers), await answer.read())

    async def watch(self, *, stalled: bool = False) -> web.StreamResponse:
        """Open a watch at the API server and deliver its events; none until `resume_watches` if it begins stalled."""
        async with self._asking(self.request.raw_path) as answer:
            if answer.status != 200:
                return Answer(answer.status, passed(answer.headers), await answer.read()).response()
            response = await self.stream(passed(answer.headers))
            watch = Watch(self.seen.resource, response, self.proxy.may_pass)
            if stalled:
                watch.stall()
            self.proxy.watches.add(watch)
            try:
                if await watch.run(answer.content.iter_any()):
                    return self.reset()
            finally:
                self.proxy.watches.discard(watch)
            return response

    async def stream(self, headers: Mapping[str, str]) -> web.StreamResponse:
        """Begin an answer whose body comes piece by piece."""
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(self.request)
        return response

    def reset(self) -> web.Response:
        """End the client's connection with a TCP reset; what is returned goes nowhere."""
        if (transport := self.request.transport) is not None:
            if (connection := transport.get_extra_info("socket")) is not None:  # the client has not hung up already
                reset_when_closed(connection)
            transport.abort()
        return web.Response()

    @asynccontextmanager
    async def _asking(self, target: str, body: bytes | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        url = URL(self.proxy.plane.url + target, encoded=True)
        headers = passed(self.request.headers)
        async with self.proxy.session.request(self.request.method, url, headers=headers, data=body) as answer:
            yield answer
