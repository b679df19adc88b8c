"""HTTP/1.1 over real sockets that breaks on demand: what the fault-injecting proxy and the S3 server of ours share.

An `Action` does with one request what it likes. Those here know nothing of what is served.
"""

from __future__ import annotations

import fcntl
import os
import select
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from faults import reset_when_closed


@dataclass(frozen=True)
class Answer:
    """A real or a made-up answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Action = Callable[["FaultyHandler"], None]


class FaultyHandler(BaseHTTPRequestHandler):
    """One connection of a client; subclasses say what is served (`forward`) and what is broken (`fault`)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are sent one after the other

    def forward(self, body: bytes) -> Answer:
        """Do the request."""
        raise NotImplementedError

    def fault(self) -> Action | None:
        """What is to be done in place of the request, whose head alone has been read."""
        raise NotImplementedError

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

    def body_length(self) -> int:
        return int(self.headers.get("Content-Length", "0"))

    def read_body(self) -> bytes:
        """The request's body; ConnectionError if the client goes away before its end."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._read_chunks()
        return self._read_exactly(self.body_length())

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
        heard = select.poll()  # select() takes no descriptor above 1023
        heard.register(self.connection, select.POLLIN)
        while time.monotonic() < deadline:
            queued = fcntl.ioctl(self.connection, termios.TIOCOUTQ, b"\0\0\0\0")
            if queued == b"\0\0\0\0" or heard.poll(1):
                return

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        reset_when_closed(self.connection)
        os.close(self.connection.detach())
        self.close_connection = True

    def _pass_or_break(self) -> None:
        fault = self.fault()
        if fault is None:
            self.answer(self.forward(self.read_body()))
        else:
            fault(self)

    def _read_exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionAbortedError(f"the body ends after {len(data)} of {size} bytes")
        return data

    def _read_chunks(self) -> bytes:
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self._read_exactly(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers of the transfer encoding
            continue
        return b"".join(pieces)


@contextmanager
def serving_http(handler: type[FaultyHandler], host: str = "127.0.0.1") -> Iterator[int]:
    """Serve on a free port of `host`, which is given, for the length of a with block."""
    server = _Server((host, 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # five, the default, let racing clients wait a second for their connections


def refuse(status: int, code: str, message: str = "injected") -> Action:
    """Answer with an S3 error; nothing is done. HEAD gets no body, as from S3."""
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return reply(status, text.encode())


def reply(status: int, body: bytes) -> Action:
    """Answer with `body`; nothing is done."""

    def act(handler: FaultyHandler) -> None:
        handler.read_body()
        handler.answer(Answer(status, [("Content-Type", "application/xml")], body))

    return act


def reset_upload(after: int) -> Action:
    """Take `after` bytes of the request's body, then reset the connection; nothing is done."""

    def act(handler: FaultyHandler) -> None:
        handler.rfile.read(min(after, handler.body_length()))
        handler.reset()

    return act


def lose_answer(meanwhile: Callable[[], object] | None = None, *, forward: bool = True) -> Action:
    """Do the request, then reset the connection in place of its answer.

    With `forward=False` it is not done. `meanwhile` runs before the reset.
    """

    def act(handler: FaultyHandler) -> None:
        body = handler.read_body()
        if forward:
            handler.forward(body)
        if meanwhile is not None:
            meanwhile()
        handler.reset()

    return act


def cut_answer(after: int, meanwhile: Callable[[], object] | None = None, *, reset: bool = False) -> Action:
    """Announce the whole body, send its first `after` bytes, then close or reset the connection."""

    def act(handler: FaultyHandler) -> None:
        real = handler.forward(handler.read_body())
        handler.answer(real, cut=after)
        if meanwhile is not None:
            meanwhile()
        if reset:
            handler.wait_until_received()
            handler.reset()
        handler.close_connection = True

    return act


def flip(data: bytes, offset: int) -> bytes:
    """One bit of the byte `offset` is another."""
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def flip_answer(offset: int) -> Action:
    """Change one bit of the body's byte `offset` on its way."""
    return change_answer(lambda body: flip(body, offset))


def change_answer(change: Callable[[bytes], bytes]) -> Action:
    """Change the body on its way."""

    def act(handler: FaultyHandler) -> None:
        real = handler.forward(handler.read_body())
        headers = [(name, value) for name, value in real.headers if name.lower() != "content-length"]
        handler.answer(Answer(real.status, headers, change(real.body)))

    return act


def flip_upload(offset: int) -> Action:
    """Change one bit of the request's body on its way."""
    return change_upload(lambda body: flip(body, offset))


def change_upload(change: Callable[[bytes], bytes]) -> Action:
    """Change the request's body on its way."""

    def act(handler: FaultyHandler) -> None:
        handler.answer(handler.forward(change(handler.read_body())))

    return act


def hang() -> Action:
    """Take the request and say nothing until the client goes away."""

    def act(handler: FaultyHandler) -> None:
        handler.read_body()
        handler.rfile.read(1)
        handler.close_connection = True

    return act


def delay(seconds: float) -> Action:
    """Do the request after a while."""

    def act(handler: FaultyHandler) -> None:
        body = handler.read_body()
        threading.Event().wait(seconds)
        handler.answer(handler.forward(body))

    return act


def drip_answer(pieces: int, pause: float = 0.0) -> Action:
    """Send the body in so many pieces, each after a pause in seconds, as over a slow line."""

    def act(handler: FaultyHandler) -> None:
        real = handler.forward(handler.read_body())
        handler.answer(real, cut=0)
        size = max(1, -(-len(real.body) // pieces))
        for start in range(0, len(real.body), size):
            threading.Event().wait(pause)
            handler.wfile.write(real.body[start : start + size])

    return act
