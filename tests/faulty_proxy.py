"""A proxy in front of a real HTTP server that breaks requests on demand, over real sockets.

Each injected fault (faulty_http) takes the next requests that fit it; all others pass unchanged, so that signatures
still hold. As the proxy of HTTP_PROXY or HTTPS_PROXY it takes requests for any host to that server.
"""

from __future__ import annotations

import http.client
import re
import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from faults import Faults
from faulty_http import Action, Answer, FaultyHandler, serving_http

HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "expect"}
Seen = tuple[str, str, dict[str, str]]  # method, path and query, headers


@dataclass
class FaultyProxy:
    """Serves on `host`:`port`, where the server behind is too; `seen` are the requests so far, as (method, path and
    query, headers)."""

    upstream: int
    host: str = "127.0.0.1"
    port: int = 0
    faults: Faults[Seen, Action] = field(default_factory=Faults)

    @property
    def seen(self) -> list[Seen]:
        return self.faults.seen

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def inject(self, method: str, action: Action, *, times: int = 1, part: str = "") -> None:
        """Break the next `times` requests with `method` and `part`; faults that fit the same request queue up."""
        self.faults.add(lambda seen: seen[0] == method and part in seen[1], action, times)

    def count(self, method: str, part: str = "") -> int:
        """How many requests with this method and part have arrived."""
        return sum(one == method and part in path for one, path, _ in self.seen)


class Handler(FaultyHandler):
    """One connection of a client."""

    proxy: FaultyProxy

    def do_CONNECT(self) -> None:
        """Tunnel to the server behind."""
        self.fault()
        with socket.create_connection((self.proxy.host, self.proxy.upstream)) as behind:
            self.send_response_only(200)
            self.end_headers()
            _join(self.connection, behind)
        self.close_connection = True

    def fault(self) -> Action | None:
        return self.proxy.faults.take((self.command, self.path, dict(self.headers.items())))

    def forward(self, body: bytes) -> Answer:
        """Do the request at the server behind."""
        connection = http.client.HTTPConnection(self.proxy.host, self.proxy.upstream, timeout=60)
        try:
            target = re.sub("^http://[^/]+", "", self.path)
            connection.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_HEADERS:
                    connection.putheader(name, value)
            with suppress(BrokenPipeError, ConnectionResetError):  # it answers without reading all of the body
                connection.endheaders(body)
            real = connection.getresponse()
            headers = [(name, value) for name, value in real.getheaders() if name.lower() not in HOP_HEADERS]
            return Answer(real.status, headers, real.read())
        finally:
            connection.close()


def _join(one: socket.socket, other: socket.socket) -> None:
    """Hand bytes on in both directions until both sides have ended: an answer may follow the end of a request."""
    beyond = {one: other, other: one}
    with selectors.DefaultSelector() as talking:  # select() takes no descriptor above 1023
        for side in beyond:
            talking.register(side, selectors.EVENT_READ)
        while talking.get_map():
            for ready, _ in talking.select():
                side = one if ready.fileobj is one else other
                if data := side.recv(65536):
                    beyond[side].sendall(data)
                else:
                    talking.unregister(side)
                    beyond[side].shutdown(socket.SHUT_WR)


@contextmanager
def faulty_proxy(upstream: int, host: str = "127.0.0.1") -> Iterator[FaultyProxy]:
    """A proxy in front of `host`:`upstream`, at the same address, for the length of a with block."""
    proxy = FaultyProxy(upstream, host)
    with serving_http(type("BoundHandler", (Handler,), {"proxy": proxy}), host) as proxy.port:
        yield proxy
