"""A proxy in front of a real HTTP server that breaks requests on demand, over real sockets.

Each injected fault takes the next requests that fit it; all others pass unchanged, so that signatures still hold.
As the proxy of HTTP_PROXY or HTTPS_PROXY it takes requests for any host to that server.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import select
import socket
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from faults import Faults, reset_when_closed

HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass(frozen=True)
class Answer:
    """An upstream's or a made-up answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Action = Callable[["Handler"], None]
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


def refuse(status: int, code: str, message: str = "injected") -> Action:
    """Answer with an S3 error; the server behind never sees the request. HEAD gets no body, as from S3."""
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return reply(status, text.encode())


def reply(status: int, body: bytes) -> Action:
    """Answer with `body`; the server behind never sees the request."""

    def act(handler: Handler) -> None:
        handler.read_body()
        handler.answer(Answer(status, [("Content-Type", "application/xml")], body))

    return act


def reset_upload(after: int) -> Action:
    """Take `after` bytes of the request's body, then reset the connection; the server behind never sees the request."""

    def act(handler: Handler) -> None:
        handler.rfile.read(min(after, handler.body_length()))
        handler.reset()

    return act


def lose_answer(meanwhile: Callable[[], object] | None = None, *, forward: bool = True) -> Action:
    """Let the server behind do the request, then reset the connection in place of its answer.

    With `forward=False` the server never sees it. `meanwhile` runs before the reset.
    """

    def act(handler: Handler) -> None:
        body = handler.read_body()
        if forward:
            handler.forward(body)
        if meanwhile is not None:
            meanwhile()
        handler.reset()

    return act


def cut_answer(after: int, meanwhile: Callable[[], object] | None = None, *, reset: bool = False) -> Action:
    """Announce the whole body, send its first `after` bytes, then close or reset the connection."""

    def act(handler: Handler) -> None:
        real = handler.forward(handler.read_body())
        handler.answer(real, cut=after)
        if meanwhile is not None:
            meanwhile()
        if reset:
            handler.wait_until_received()
            handler.reset()
        handler.close_connection = True

    return act


def flip_answer(offset: int) -> Action:
    """Change one bit of the body's byte `offset` on its way."""

    def act(handler: Handler) -> None:
        real = handler.forward(handler.read_body())
        body = bytearray(real.body)
        body[offset] ^= 1
        handler.answer(Answer(real.status, real.headers, bytes(body)))

    return act


def flip_upload(offset: int) -> Action:
    """Change one bit of the request's body on its way."""

    def act(handler: Handler) -> None:
        body = bytearray(handler.read_body())
        body[offset] ^= 1
        handler.answer(handler.forward(bytes(body)))

    return act


def hang() -> Action:
    """Take the request and say nothing until the client goes away."""

    def act(handler: Handler) -> None:
        handler.read_body()
        handler.rfile.read(1)
        handler.close_connection = True

    return act


def drip_answer(pieces: int, pause: float = 0.0) -> Action:
    """Send the body in so many pieces, each after a pause in seconds, as over a slow line."""

    def act(handler: Handler) -> None:
        real = handler.forward(handler.read_body())
        handler.answer(real, cut=0)
        size = max(1, -(-len(real.body) // pieces))
        for start in range(0, len(real.body), size):
            threading.Event().wait(pause)
            handler.wfile.write(real.body[start : start + size])

    return act


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client went away, or was sent away
            self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._pass_or_break
        raise AttributeError(name)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_CONNECT(self) -> None:
        """Tunnel to the server behind."""
        self.proxy.faults.take(("CONNECT", self.path, dict(self.headers.items())))
        with socket.create_connection((self.proxy.host, self.proxy.upstream)) as behind:
            self.send_response_only(200)
            self.end_headers()
            _join(self.connection, behind)
        self.close_connection = True

    def body_length(self) -> int:
        return int(self.headers.get("Content-Length", "0"))

    def read_body(self) -> bytes:
        return self.rfile.read(self.body_length())

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

    def answer(self, answer: Answer, cut: int | None = None) -> None:
        """Send an answer, or the first `cut` bytes of its body under the length of the whole."""
        self.send_response_only(answer.status)
        headers = {name.lower(): value for name, value in answer.headers}
        headers.setdefault("content-length", str(len(answer.body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:cut])

    def wait_until_received(self) -> None:
        """Return when the client's side has everything that was sent: a reset drops what is still on its way."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            queued = fcntl.ioctl(self.connection, termios.TIOCOUTQ, b"\0\0\0\0")
            if queued == b"\0\0\0\0" or select.select([self.connection], [], [], 0.001)[0]:
                return

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        reset_when_closed(self.connection)
        os.close(self.connection.detach())
        self.close_connection = True

    def _pass_or_break(self) -> None:
        fault = self.proxy.faults.take((self.command, self.path, dict(self.headers.items())))
        if fault is None:
            self.answer(self.forward(self.read_body()))
        else:
            fault(self)


def _join(one: socket.socket, other: socket.socket) -> None:
    """Hand bytes on in both directions until either side ends."""
    beyond = {one: other, other: one}
    while True:
        for ready in select.select([one, other], [], [])[0]:
            data = ready.recv(65536)
            if not data:
                return
            beyond[ready].sendall(data)


@contextmanager
def faulty_proxy(upstream: int, host: str = "127.0.0.1") -> Iterator[FaultyProxy]:
    """A proxy in front of `host`:`upstream`, at the same address, for the length of a with block."""
    proxy = FaultyProxy(upstream, host)
    handler = type("BoundHandler", (Handler,), {"proxy": proxy})
    server = ThreadingHTTPServer((host, 0), handler)
    server.daemon_threads = True
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
