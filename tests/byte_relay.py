"""A relay in front of a real server that ends all traffic behind a chosen byte of it, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PIECE = 2**16
UNLIMITED = 2**62


class ByteRelay:
    """Passes bytes between clients and the server at `upstream`, a port of 127.0.0.1; counts both directions.

    A limit ends the traffic in the middle of a request or an answer: the server gets no further byte, clients neither.
    """

    def __init__(self, upstream: int) -> None:
        self.passed = 0
        self._upstream = upstream
        self._limit = UNLIMITED
        self._reached: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def allow(self, size: int, reached: Callable[[], object] = lambda: None) -> None:
        """Let `size` more bytes pass from now on, then call `reached`, once, before anybody's connection ends."""
        with self._lock:
            self.passed, self._limit, self._reached = 0, size, reached

    def settle(self) -> None:
        """Return when the server is done with every connection; the clients must have gone."""
        for connection in self._connections:
            connection.join(30)
            assert not connection.is_alive(), "the server keeps a connection of a client that is gone"
        self._connections.clear()

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                connection = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._connections.append(connection)
                connection.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._upstream)) as server:
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes until the source ends or the limit is reached; then read on, so that the source ends."""
        with suppress(OSError):
            while (data := source.recv(PIECE)) and self._pass(data, target):
                continue
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while source.recv(PIECE):
                continue

    def _pass(self, data: bytes, target: socket.socket) -> bool:
        """Send as much of `data` as the limit allows; whether more may come."""
        with self._lock:
            allowed = min(len(data), self._limit - self.passed)
            self.passed += allowed
            with suppress(OSError):
                target.sendall(data[:allowed])
            if allowed and self.passed == self._limit:
                self._reached()
            return self.passed < self._limit


@contextmanager
def byte_relay(upstream: int) -> Iterator[ByteRelay]:
    """A relay in front of 127.0.0.1:`upstream` for the length of a with block."""
    relay = ByteRelay(upstream)
    try:
        yield relay
    finally:
        relay.close()
