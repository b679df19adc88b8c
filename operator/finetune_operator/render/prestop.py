"""Runs in a pod before Kubernetes stops it: asks the run to stop after a commit, and waits until nothing trains here.

`python3 prestop.py head|worker <submission id> <seconds> <port of Ray's dashboard>`: returns at once when nothing
trains in this pod, and after so many seconds in any case. It is mounted into the pods by itself, so it needs nothing
but the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

RANK = b"ray::RayTrainWorker"
"""How the process of a rank calls itself."""

SHIPPER = b"finetune_trainer.launch.shipper"
"""Part of the command of a process that stores the output of a rank or of the driver."""

LAST_LINES = 5.0
"""Seconds for that, once nothing trains here any more."""

OVER = ("SUCCEEDED", "FAILED", "STOPPED")
PAUSE = 0.5
"""Seconds between two looks."""

REQUEST_TIMEOUT = 5.0
UNREACHABLE = 10.0
"""Seconds without an answer after which a head's Ray counts as ended, and the driver with it."""


def main(arguments: list[str]) -> int:
    """Ask and wait; always 0, because a hook that fails would only be one more event."""
    role, submission, seconds, port = arguments
    head = role == "head"
    host = "127.0.0.1" if head else os.environ.get("FQ_RAY_IP", "")
    job = Job(f"http://{host}:{port}/api/jobs/{submission}", os.environ.get("RAY_AUTH_TOKEN", ""))
    end = time.monotonic() + float(seconds)
    if wait(job.runs if head else rank_runs, job.stop, float(seconds)):
        wait(output_waits, lambda: True, min(LAST_LINES, end - time.monotonic()))
    return 0


def wait(busy: Callable[[], bool], ask: Callable[[], bool], seconds: float) -> bool:
    """Wait until `busy` is false, asking until somebody listens; returns whether it came to that in time."""
    end = time.monotonic() + seconds
    asked = False
    while busy():
        if time.monotonic() >= end:
            return False
        asked = asked or ask()
        time.sleep(PAUSE)
    return True


def rank_runs(proc: Path = Path("/proc")) -> bool:
    """Whether a rank's process lives in this pod."""
    return any(_title(entry).startswith(RANK) for entry in proc.iterdir() if entry.name.isdigit())


def output_waits(proc: Path = Path("/proc")) -> bool:
    """Whether output of a process in this pod may not be stored yet."""
    return any(SHIPPER in _title(entry) for entry in proc.iterdir() if entry.name.isdigit())


def _title(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended, or is not ours
        return b""


class Job:
    """The driver, through Ray's job API at `url`."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._answered = time.monotonic()

    def runs(self) -> bool:
        """Whether it has begun and not ended; a Ray that gave no answer for a while has taken it along."""
        answer = self._request("GET", "")
        if answer is None:
            return time.monotonic() - self._answered < UNREACHABLE
        self._answered = time.monotonic()
        return answer.get("status", OVER[0]) not in OVER

    def stop(self) -> bool:
        """Ask it to stop; returns whether somebody listened."""
        return self._request("POST", "/stop") is not None

    def _request(self, method: str, path: str) -> dict[str, object] | None:
        """The answer, empty when there is no such job, or None when there is nobody."""
        request = urllib.request.Request(self._url + path, method=method, headers=self._headers)
        try:
            with self._opener.open(request, timeout=REQUEST_TIMEOUT) as response:
                found = json.load(response)
                return found if isinstance(found, dict) else {}
        except urllib.error.HTTPError as error:
            return {} if error.code == 404 else None
        except (OSError, ValueError):
            return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
