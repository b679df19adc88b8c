"""The HTTPS endpoint that runs report to.

`POST /v1/jobs/<uid>/progress` speaks the trainer's protocol, `POST /v1/jobs/<uid>/status` takes what transformers'
Kubeflow callback sends. Both are answered `{"stopBy": <seconds left> | null, "reason": "<why>"}`. 400 and 413 mean
that the same request will never be taken; after 401, 403, 404, 408, 429 and 503 it may be sent again. The result of a
run is taken once it is in the job's status; all else that is lost with this process comes again or is told elsewhere.

Order of the checks: size and form by the headers, the job, the token, the pod, the job's allowance; only then is the
body read. So nobody but a pod of a job can make this process hold or parse anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from finetune_operator.core.logs import about
from finetune_operator.kube import Object
from finetune_operator.progress.forward import HANDED_ON, HERE, Forwarder
from finetune_operator.progress.limits import Allowances
from finetune_operator.progress.mailbox import Key, Mailbox
from finetune_operator.progress.payload import Batch, Malformed, read_kubeflow, read_report
from finetune_operator.progress.secret import Certificates
from finetune_operator.progress.tokens import Refusal, Tokens, attempt_of

MAX_BODY = 4 * 1024 * 1024
"""Bytes of one body, as the trainer's own receiver takes them: an audit with a long sample is below."""

MAX_HELD = 32 * 1024 * 1024
"""Bytes of bodies that are held at once, over all jobs."""

RATE, BURST = 5.0, 100.0
"""Units that a job may use per second, and at once after a pause. A request costs one, and one more per UNIT bytes."""

UNIT = 64 * 1024

HANDSHAKE_SECONDS = IDLE_SECONDS = BODY_SECONDS = 10.0
"""For a TLS handshake; without a complete request head; for a body. After that the connection is closed."""

WRITTEN_LOOKS, WRITTEN_INTERVAL = 20, 0.1
"""How often a result is looked for in the status before the run is told to come again, and every how many seconds:
together less than what a replica that hands it on waits for."""

LOG_INTERVAL = 60.0
"""Seconds between two lines of the log about the same refusal of the same job."""

logger = logging.getLogger(__name__)


def _quotes_no_request(record: logging.LogRecord) -> bool:
    """Keep what aiohttp says of requests that it cannot read out of the log: it quotes them, tokens and all."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_http_logger = logging.getLogger(f"{__name__}.http")
_http_logger.addFilter(_quotes_no_request)


class Directory(Protocol):
    """What is known of the cluster: lookups in the informers' stores."""

    def job(self, uid: str) -> Key | None:
        """Namespace and name of the FineTuneJob with this uid."""
        ...

    def pod(self, namespace: str, name: str) -> Object | None:
        """A pod, with its labels."""
        ...

    def output(self, uid: str) -> Object | None:
        """What the status of the FineTuneJob with this uid says of its output."""
        ...


class Refused(Exception):
    """A report that is not taken, with the answer's HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ProgressServer:
    """Takes reports on the leader and hands them on everywhere else. Call `start`, which sets `started`, then `close`.

    `leader()` returns the address (host:port) of the replica that leads, HERE when it is this one, None when nobody
    knows. `count` is told how every request ended: `accepted`, `forwarded`, or the HTTP status of the refusal.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        tokens: Tokens,
        directory: Directory,
        certificates: Certificates,
        forwarder: Forwarder,
        leader: Callable[[], str | None],
        count: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._mailbox = mailbox
        self._tokens = tokens
        self._directory = directory
        self._certificates = certificates
        self._forwarder = forwarder
        self._leader = leader
        self._count = count
        self._allowances = Allowances(RATE, BURST)
        self._lines = Allowances(1 / LOG_INTERVAL, 1.0)
        self.started = asyncio.Event()
        self._held = 0
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._listener is not None
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def start(self, host: str | None, port: int) -> None:
        """Listen; `host` None is every address, port 0 any that is free."""
        application = web.Application(client_max_size=MAX_BODY + 1)
        application.router.add_post("/v1/jobs/{uid:[0-9A-Za-z-]{1,64}}/progress", self._progress)
        application.router.add_post("/v1/jobs/{uid:[0-9A-Za-z-]{1,64}}/status", self._status)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=_http_logger,
            handle_signals=False,
            shutdown_timeout=2.0,
            keepalive_timeout=IDLE_SECONDS,
            auto_decompress=False,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = await asyncio.get_running_loop().create_server(
            self._runner.server,
            host,
            port,
            ssl=self._certificates.serving,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            backlog=1024,
        )
        self.started.set()

    async def close(self) -> None:
        """Listen no more, finish the requests that are there, close all connections."""
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._forwarder.close()

    async def _progress(self, request: web.Request) -> web.Response:
        return await self._answer(request, read_report)

    async def _status(self, request: web.Request) -> web.Response:
        return await self._answer(request, read_kubeflow)

    async def _answer(self, request: web.Request, read: Callable[[bytes], Batch]) -> web.Response:
        uid = request.match_info["uid"]
        try:
            size = _size(request)
            leader = self._leader()
            if leader == HERE:
                answer = web.json_response(await self._accept(request, uid, size, read))
                self._count("accepted")
                return answer
            if leader is None or HANDED_ON in request.headers:
                raise Refused(503, "no replica leads at the moment; come again")
            handed_on = await self._forwarder.hand_on(request, leader)
            if handed_on is None:
                raise Refused(503, "the leading replica does not answer; come again")
            self._count("forwarded")
            return handed_on
        except Refused as refused:
            self._note(uid, refused)
            headers = {"Retry-After": "1"} if refused.status in (429, 503) else None
            return web.json_response({"error": str(refused)}, status=refused.status, headers=headers)

    async def _accept(
        self, request: web.Request, uid: str, size: int, read: Callable[[bytes], Batch]
    ) -> dict[str, object]:
        key, attempt = await self._sender(request, uid)
        if not self._allowances.take(uid, 1 + size / UNIT):
            raise Refused(429, "the job reports too often; come again")
        body = await self._read(request, size)
        try:
            batch = read(body)
        except Malformed as error:
            raise Refused(400, str(error)) from error
        answer = self._mailbox.put(uid, key, attempt, batch)
        if any(change.finished for _, change in batch.changes):
            await self._written(uid, attempt)
        return answer.to_json()

    async def _written(self, uid: str, attempt: int) -> None:
        """Wait until a result is in the job's status: a run tells it once, and until then only this process knows."""
        told = self._mailbox.output(uid, attempt)
        if told is None:
            return
        wanted = told.model_dump(mode="json", exclude_none=True)
        for _ in range(WRITTEN_LOOKS):
            if self._directory.output(uid) == wanted:
                return
            await asyncio.sleep(WRITTEN_INTERVAL)
        raise Refused(503, "the result could not be written into the job's status yet; come again")

    async def _sender(self, request: web.Request, uid: str) -> tuple[Key, int]:
        """The job, and the attempt whose pod sent this."""
        key = self._directory.job(uid)
        if key is None:
            raise Refused(404, f"there is no FineTuneJob with the uid {uid}")
        sender = await self._tokens.sender(_bearer(request), uid, key[0])
        if isinstance(sender, Refusal):
            raise Refused(sender.status, sender.message)
        attempt = attempt_of(self._directory.pod(sender.namespace, sender.pod), sender, uid)
        if isinstance(attempt, Refusal):
            raise Refused(attempt.status, attempt.message)
        return key, attempt

    async def _read(self, request: web.Request, size: int) -> bytes:
        if self._held + size > MAX_HELD:
            raise Refused(503, "too many reports at once; come again")
        self._held += size
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await request.read()
        except TimeoutError as error:
            raise Refused(408, f"the body did not come within {BODY_SECONDS:.0f} s") from error
        finally:
            self._held -= size

    def _note(self, uid: str, refused: Refused) -> None:
        """Count every refusal; log it with the job's name, but not over and over. What was sent is never logged."""
        self._count(str(refused.status))
        key = self._directory.job(uid)
        if key is not None and self._lines.take((uid, str(refused))):
            with about(namespace=key[0], job=key[1]):
                logger.warning("a report for job %s/%s was refused with %d: %s", *key, refused.status, refused)


def _size(request: web.Request) -> int:
    """The length of the body, which must be told before."""
    if request.content_length is None:
        raise Refused(411, "send a Content-Length")
    if request.content_length > MAX_BODY:
        raise Refused(413, f"the body has {request.content_length} bytes; at most {MAX_BODY} are taken")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refused(415, "send the body without a Content-Encoding")
    return request.content_length


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
