"""One request and its answer: connections, credentials, the limit, what is sent again, typed errors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from yarl import URL

from finetune_operator.kube.config import Access
from finetune_operator.kube.errors import ApiError, Unauthorized, Unreachable, error_of
from finetune_operator.kube.limiter import TokenBucket
from finetune_operator.kube.resources import Object, Resource
from finetune_operator.kube.retry import wait_before_retry

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 30.0
"""Longest time for one request, from the first byte sent to the last byte read."""

JSON = "application/json"
METHODS = {"get": "GET", "list": "GET", "watch": "GET", "create": "POST", "delete": "DELETE"}
CONTENT_TYPES = {"apply": "application/apply-patch+yaml", "patch": "application/merge-patch+json"}

Observe = Callable[[str, str, int, float], None]
"""Told of every request: verb, plural of the resource, HTTP status (0: unreachable), seconds until it was over."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to ask: `verb` is that of RBAC, but `apply` for the patch that is a server-side apply."""

    verb: str
    resource: Resource
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Object | None = None

    def __str__(self) -> str:
        return f"{self.verb} {self.path}"

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return self.verb not in ("get", "list", "watch")


class Transport:
    """Connections to one API server. `guard` is called before a write is sent, after all waiting; it may raise."""

    def __init__(self, access: Access, qps: float, burst: int, observe: Observe | None) -> None:
        self.access = access
        self.observe = observe
        self.guard: Callable[[], None] | None = None
        self._bucket = TokenBucket(qps, burst)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": JSON, "Accept-Encoding": "identity", "User-Agent": "finetune-operator"},
            read_bufsize=2**20,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(self, request: Request) -> Any:
        """Return the JSON that answers the request, which is sent again where that is surely harmless."""
        patience = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        tries = 0
        while True:
            await self._bucket.take()
            tries += 1
            try:
                async with self._open(request, patience) as response:
                    return orjson.loads(await response.read())
            except orjson.JSONDecodeError as error:
                raise Unreachable(f"{request}: the answer is no JSON") from error
            except Unauthorized:
                if not self.access.distrust():
                    raise
            except ApiError as error:
                wait = wait_before_retry(error, creates=request.verb == "create", tries=tries)
                if wait is None:
                    raise
                logger.debug("%s again in %.1f s: %s", request, wait, error)
                await asyncio.sleep(wait)

    @asynccontextmanager
    async def stream(self, request: Request, stall: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give the body of the answer as it comes; Unreachable when no byte comes for `stall` seconds."""
        patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=stall)
        async with self._open(request, patience) as response:
            yield response.content.iter_any()

    @asynccontextmanager
    async def _open(self, request: Request, patience: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientResponse]:
        authorization = await self.access.authorization()
        if request.writes and self.guard is not None:
            self.guard()
        started, status = time.monotonic(), 0
        try:
            async with self._session.request(
                METHODS.get(request.verb, "PATCH"),
                self._url(request),
                data=None if request.body is None else orjson.dumps(request.body),
                headers=_headers(request.verb, authorization),
                timeout=patience,
                allow_redirects=False,
                ssl=self.access.ssl,
                proxy=self.access.proxy,
                server_hostname=self.access.server_hostname,
            ) as response:
                status = response.status
                if status >= 300:
                    raise error_of(status, await response.read(), response.headers.get("Retry-After"))
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            status = 0
            raise Unreachable(f"{request}: {_cause(error)}") from error
        finally:
            if self.observe is not None:
                self.observe(request.verb, request.resource.plural, status, time.monotonic() - started)

    def _url(self, request: Request) -> URL:
        query = f"?{urlencode(request.params)}" if request.params else ""
        return URL(f"{self.access.server}{request.path}{query}", encoded=True)


def _headers(verb: str, authorization: str | None) -> dict[str, str]:
    headers = {"Content-Type": CONTENT_TYPES.get(verb, JSON)}
    if authorization is not None:
        headers["Authorization"] = authorization
    return headers


def _cause(error: BaseException) -> str:
    """Say what went wrong without aiohttp's words around it."""
    for inner in ("certificate_error", "os_error"):
        error = getattr(error, inner, error)
    return str(error) or type(error).__name__
