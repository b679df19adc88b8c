"""Rank 0's side of the progress protocol: JSON events by HTTP POST, with the receiver's wish to stop in the answer.

Request: `POST <FINETUNE_PROGRESS_URL>` with `Authorization: Bearer <token>` and
`{"stream": <random id of this sender>, "events": [{"seq": 1, "kind": ..., ...}, ...]}`; `seq` rises within a stream, so
that a receiver can drop what it has seen when a request is repeated. Answer: 200
`{"stopBy": <seconds left> | null, "reason": "<why>"}`. An empty list of events asks for the answer only.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import secrets
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.context import Answer, StopSignal
from finetune_trainer.launch.events import MERGED

URL = "FINETUNE_PROGRESS_URL"
TOKEN = "FINETUNE_PROGRESS_TOKEN"
TOKEN_FILE = "FINETUNE_PROGRESS_TOKEN_FILE"
CA_FILE = "FINETUNE_PROGRESS_CA_FILE"
INTERVAL = "FINETUNE_PROGRESS_INTERVAL"

REQUEST_TIMEOUT = 5.0
"""Seconds for one request; a receiver that needs longer counts as away."""

LONGEST_PAUSE = 30.0
"""Seconds between two attempts while the receiver is away; the pauses double from the interval up to this."""

CLOSING_PAUSE = 0.5
"""Seconds between two attempts once the run is over and only its last events are to be delivered."""

LAST_REPORTS = 30.0
"""Seconds in which a run delivers its last events to the operator: another replica needs 15 to take over."""

BATCH = 200
"""Events per request, so that a backlog fits into the receiver's body limit."""

REFUSED = (400, 413)
"""Answers to a request that would be refused again however often it is sent."""

_AWAY = (OSError, ValueError, KeyError, TypeError, http.client.HTTPException)
"""What a request raises when nobody answers, or not by this protocol; urllib's errors are OSErrors."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Channel:
    """Where to report. The token file is read again for every request, because projected tokens are rotated.

    `interval` is the time in seconds between two requests that carry progress; other events are sent at once.
    """

    url: str
    token: str = ""
    token_file: str = ""
    ca_file: str = ""
    interval: float = 10.0

    def bearer(self) -> str:
        """Return the token to send now."""
        return Path(self.token_file).read_text(encoding="utf-8").strip() if self.token_file else self.token

    def environ(self) -> dict[str, str]:
        """Return the environment variables from which `channel_of` reads this channel."""
        values = {URL: self.url, TOKEN: self.token, TOKEN_FILE: self.token_file, CA_FILE: self.ca_file}
        return {name: value for name, value in values.items() if value} | {INTERVAL: str(self.interval)}


def channel_of(environ: Mapping[str, str]) -> Channel | None:
    """Read the channel from environment variables; None when nobody listens."""
    if not environ.get(URL):
        return None
    interval = float(environ.get(INTERVAL) or Channel.interval)
    return Channel(
        environ[URL], environ.get(TOKEN, ""), environ.get(TOKEN_FILE, ""), environ.get(CA_FILE, ""), interval
    )


class _Opener:
    """Plain HTTP(S) requests: no proxies (the receiver is in the cluster or on loopback) and no redirects (a token)."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        context = ssl.create_default_context(cafile=channel.ca_file or None)
        self._director = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            self._director.add_handler(handler)

    def post(self, body: Mapping[str, object], timeout: float) -> Answer:
        """Send one request; raises one of `_AWAY` when it was not taken."""
        request = urllib.request.Request(
            self._channel.url,
            data=json.dumps(body, allow_nan=False).encode(),
            headers={"Authorization": f"Bearer {self._channel.bearer()}", "Content-Type": "application/json"},
            method="POST",
        )
        with self._director.open(request, timeout=timeout) as response:
            answer = json.loads(response.read(65536))
        stop_by = answer["stopBy"]
        return Answer(None if stop_by is None else float(stop_by), str(answer.get("reason", "")))


class HttpReporter:
    """Delivers events from a background thread: one request in flight, the newest progress wins, nothing else is lost.

    A receiver that is away delays delivery and never the training step; an answer that asks for a stop is passed on to
    `stop`. `heartbeat` is the time in seconds after which an idle sender asks for the answer (default: the interval, at
    least 1). Use as a context manager, or call `close`.
    """

    def __init__(self, channel: Channel, stop: StopSignal | None = None, heartbeat: float | None = None) -> None:
        self._channel = channel
        self._opener = _Opener(channel)
        self._stop = stop
        self._heartbeat = max(1.0, channel.interval) if heartbeat is None else heartbeat
        self._stream = secrets.token_hex(8)
        self._condition = threading.Condition()
        self._queue: list[dict[str, object]] = []
        self._sequence = 0
        self._phase: object = None
        self._urgent = False
        self._closing = False
        self._failures = 0
        self._answer = Answer()
        self._thread = threading.Thread(target=self._run, name="progress-reporter", daemon=True)
        self._thread.start()

    def report(self, event: Mapping[str, object]) -> Answer:
        """Queue one event and return the newest answer; raises TypeError when the event is not JSON."""
        plain = as_json(event)
        with self._condition:
            self._sequence += 1
            if not self._replaces(plain):
                self._urgent = True
            self._queue.append({"seq": self._sequence, **plain})
            self._condition.notify()
            return self._answer

    def close(self, deadline: float = 10.0) -> bool:
        """Deliver what is queued within so many seconds; returns whether everything was delivered."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(deadline)
        with self._condition:
            left = sorted({str(event["kind"]) for event in self._queue})
        if left:
            logger.warning("the progress receiver at %s is away; not delivered: %s", self._channel.url, left)
        return not left

    def __enter__(self) -> HttpReporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _replaces(self, event: dict[str, object]) -> bool:
        """Drop the queued event that this one makes obsolete; False for an event that must be sent at once."""
        kind, name = event.get("kind"), event.get("name")
        if kind in MERGED:
            self._queue = [queued for queued in self._queue if queued["kind"] != kind]
            return True
        if kind == "phase" and name == self._phase:
            self._queue = [queued for queued in self._queue if (queued["kind"], queued.get("name")) != (kind, name)]
            return True
        if kind == "phase":
            self._phase = name
        return False

    def _run(self) -> None:
        last = time.monotonic() - self._channel.interval
        while self._wait(last):
            with self._condition:
                batch = self._queue[:BATCH]
                self._urgent = len(self._queue) > BATCH
            self._send(batch)
            last = time.monotonic()

    def _wait(self, last: float) -> bool:
        """Wait until the next request is due after one at `last`; False once closed with nothing left to deliver."""
        with self._condition:
            while not (self._closing and not self._queue):
                left = last + self._pause() - time.monotonic()
                if left <= 0:
                    return True
                self._condition.wait(left)
        return False

    def _pause(self) -> float:
        """Return the seconds from the last request to the next one."""
        if self._failures:
            doubled = max(CLOSING_PAUSE, self._channel.interval) * 2.0 ** min(self._failures - 1, 10)
            return CLOSING_PAUSE if self._closing else min(LONGEST_PAUSE, doubled)
        if self._closing or self._urgent:
            return 0.0
        return self._channel.interval if self._queue else self._heartbeat

    def _send(self, batch: list[dict[str, object]]) -> None:
        try:
            answer = self._opener.post({"stream": self._stream, "events": batch}, REQUEST_TIMEOUT)
        except _AWAY as error:
            if isinstance(error, urllib.error.HTTPError) and error.code in REFUSED:
                logger.error("the progress receiver refused %d events: %s", len(batch), error)
                self._forget(batch)
            self._failures += 1
            if self._failures == 1:
                logger.warning("the progress receiver at %s does not answer: %s", self._channel.url, error)
            return
        self._failures = 0
        self._forget(batch)
        self._take(answer)

    def _forget(self, batch: list[dict[str, object]]) -> None:
        sent = {event["seq"] for event in batch}
        with self._condition:
            self._queue = [event for event in self._queue if event["seq"] not in sent]

    def _take(self, answer: Answer) -> None:
        with self._condition:
            self._answer = answer
        if answer.stop_by is not None and self._stop is not None:
            self._stop.request(answer.reason or "asked for in the answer to a progress report", answer.stop_by)


def ask(channel: Channel) -> Answer:
    """Ask once, without an event, what the receiver wants; the empty answer when it is away."""
    try:
        return _Opener(channel).post({"stream": secrets.token_hex(8), "events": []}, REQUEST_TIMEOUT)
    except _AWAY as error:
        logger.warning("the progress receiver at %s does not answer: %s", channel.url, error)
        return Answer()


def as_json(event: Mapping[str, object]) -> dict[str, object]:
    """Return the event as plain JSON values: numpy and torch scalars as numbers, NaN and infinities as null."""
    plain: dict[str, object] = json.loads(json.dumps(event, default=_plain), parse_constant=lambda _: None)
    return plain


def _plain(value: object) -> object:
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a progress event holds {type(value).__name__}, which is not JSON")
