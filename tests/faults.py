"""What the fault-injecting proxies share: requests that were seen, faults that wait for theirs, and TCP resets."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Seen = TypeVar("Seen")
Action = TypeVar("Action")
FOREVER = 10**9


@dataclass
class Fault(Generic[Seen, Action]):
    """What happens to the next `times` requests that fit, behind the first `skip` of them."""

    fits: Callable[[Seen], bool]
    action: Action
    times: int
    skip: int


class Faults(Generic[Seen, Action]):
    """Requests so far (`seen`), and the faults for the next ones, of which `taken` have struck; those that fit the same
    request queue up.

    Tests and the proxy's threads use it at once.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.taken = 0
        self._faults: list[Fault[Seen, Action]] = []
        self._lock = threading.Lock()

    def add(self, fits: Callable[[Seen], bool], action: Action, times: int, skip: int = 0) -> None:
        """Break the next `times` requests that fit, once `skip` have passed."""
        with self._lock:
            self._faults.append(Fault(fits, action, times, skip))

    def take(self, request: Seen) -> Action | None:
        """Note a request and take the fault that is meant for it."""
        with self._lock:
            self.seen.append(request)
            for fault in self._faults:
                if not fault.times or not fault.fits(request):
                    continue
                if not fault.skip:
                    fault.times -= 1
                    self.taken += 1
                    return fault.action
                fault.skip -= 1
        return None

    def clear(self) -> None:
        """Let all requests pass from now on."""
        with self._lock:
            self._faults.clear()


def reset_when_closed(connection: socket.socket) -> None:
    """Let closing this connection send a TCP reset, and drop what is still on its way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
