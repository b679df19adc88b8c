"""What can go wrong with one request to the API server: actions for `KubeProxy.inject`."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from kube_exchange import Action, Exchange

HELD_SECONDS = 60.0
REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


def failure(code: int, reason: str = "", message: str = "injected", retry_after: int | None = None) -> dict[str, Any]:
    """Return the Status object that says so; the reason of the usual codes is known."""
    details = {} if retry_after is None else {"retryAfterSeconds": retry_after}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason or REASONS[code],
        "details": details,
        "code": code,
    }


def status(code: int, reason: str = "", message: str = "injected", retry_after: int | None = None) -> web.Response:
    """Return the answer of the API server that says so."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(failure(code, reason, message, retry_after), status=code, headers=headers)


def refuse(code: int, reason: str = "", *, retry_after: int | None = None) -> Action:
    """Answer with this error; the API server never sees the request."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        await exchange.request.read()
        return status(code, reason, retry_after=retry_after)

    return act


def drop() -> Action:
    """Reset the connection; the API server never sees the request."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        return exchange.reset()

    return act


def lose_answer(code: int | None = None) -> Action:
    """Let the API server do the request, then reset the connection, or answer with an error that is not true."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        await exchange.forward()
        return exchange.reset() if code is None else status(code)

    return act


def delay(seconds: float) -> Action:
    """Pass the request on after so many seconds."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await exchange.pass_on()

    return act


def hold(until: threading.Event) -> Action:
    """Pass the request on when the test says so, or after 60 s."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        await asyncio.to_thread(until.wait, HELD_SECONDS)
        return await exchange.pass_on()

    return act


def stall() -> Action:
    """Open a watch that says nothing until `resume_watches`: no event, no bookmark, no end."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        return await exchange.watch(stalled=True)

    return act


def expire() -> Action:
    """Open a watch and end it with the event that says its resourceVersion is too old, as the watch cache does."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        response = await exchange.stream({"Content-Type": "application/json"})
        event = {"type": "ERROR", "object": failure(410, "Expired", "too old resource version")}
        await response.write(json.dumps(event).encode() + b"\n")
        return response

    return act


def cut_short(after: int) -> Action:
    """Do the request and send the first `after` bytes of the answer's body, then close the connection."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        answer = await exchange.forward()
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        await response.prepare(exchange.request)
        await response.write(answer.body[:after])
        if exchange.request.transport is not None:
            exchange.request.transport.close()
        return response

    return act
