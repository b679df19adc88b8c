"""The launcher's side of the progress protocol (`finetune_trainer.launch.progress`): a small HTTP server."""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from finetune_trainer.context import StopSignal
from finetune_trainer.launch.elastic import GROW, Resize
from finetune_trainer.launch.progress import Channel

MAX_BODY = 4 * 1024 * 1024
"""Bytes of one request; an audit with a long sample is far below."""

SOCKET_TIMEOUT = 10.0
"""Seconds without a byte after which a connection is dropped."""

NO_DEADLINE = 86400.0
"""Seconds answered for a stop without a deadline: the user who waits at the terminal is the deadline."""

Sink = Callable[[Mapping[str, object]], None]


class Receiver:
    """Hands every event once and in order to `sink`, and answers with the time left until a stop.

    It listens on `host`, port 0 being any that is free. `sink` is called from server threads, one event at a time.
    `stop` is the launcher's own signal: once requested, each answer asks the run to stop within its remaining time.
    While a `resize` is asked for, answers ask for the same without a deadline, with the reason `elastic.GROW`.
    """

    def __init__(
        self, sink: Sink, stop: StopSignal, host: str = "127.0.0.1", port: int = 0, *, resize: Resize | None = None
    ) -> None:
        self._sink = sink
        self._stop = stop
        self._resize = resize or Resize()
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}
        self._token = secrets.token_urlsafe(32)
        self._server = ThreadingHTTPServer((host, port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="progress-receiver", daemon=True)

    def channel(self, interval: float = 0.5) -> Channel:
        """Return what a rank needs to report here."""
        host, port = self._server.server_address[:2]
        return Channel(f"http://{host!s}:{port}/progress", token=self._token, interval=interval)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def authorized(self, header: str | None) -> bool:
        """Whether the Authorization header holds this server's token."""
        return hmac.compare_digest((header or "").encode(), f"Bearer {self._token}".encode())

    def take(self, body: bytes) -> dict[str, object]:
        """Deliver the new events of one request body and return the answer; raises ValueError when malformed."""
        stream, events = _parse(body)
        with self._lock:
            for sequence, event in events:
                if sequence > self._seen.get(stream, 0):
                    self._seen[stream] = sequence
                    self._sink(event)
        return self._answer()

    def _answer(self) -> dict[str, object]:
        if self._stop.requested:
            remaining = self._stop.remaining()
            return {"stopBy": NO_DEADLINE if remaining is None else remaining, "reason": self._stop.reason or ""}
        if self._resize.asked:
            return {"stopBy": NO_DEADLINE, "reason": GROW}
        return {"stopBy": None, "reason": ""}


def _parse(body: bytes) -> tuple[str, list[tuple[int, dict[str, object]]]]:
    try:
        request = json.loads(body)
        events = [(int(event.pop("seq")), dict(event)) for event in request["events"]]
        if not all(isinstance(event.get("kind"), str) for _, event in events):
            raise ValueError("an event without a kind")
        return str(request["stream"]), events
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a progress report: {error!r}") from error


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SOCKET_TIMEOUT

        def do_POST(self) -> None:
            if not receiver.authorized(self.headers.get("Authorization")):
                return self._answer(HTTPStatus.UNAUTHORIZED, {"error": "wrong or missing bearer token"})
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                return self._answer(HTTPStatus.LENGTH_REQUIRED, {"error": "send a Content-Length"})
            if int(length) > MAX_BODY:
                return self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"more than {MAX_BODY} bytes"})
            try:
                answer = receiver.take(self.rfile.read(int(length)))
            except ValueError as error:
                return self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            self._answer(HTTPStatus.OK, answer)

        def _answer(self, status: HTTPStatus, body: Mapping[str, object]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")  # the rest of a refused body must not be read as a next request
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the terminal for the renderer."""

    return Handler
