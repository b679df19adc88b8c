"""Reads as of an earlier moment, answered by the API server itself: a LIST at an exact resourceVersion."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from kube_faults import status
from kube_request import KubeRequest

if TYPE_CHECKING:
    from kube_exchange import Exchange


@dataclass(frozen=True)
class Frozen:
    """The cluster as it was at `version`, for these resources (empty: all)."""

    version: int
    resources: frozenset[str]

    def covers(self, resource: str) -> bool:
        return not self.resources or resource in self.resources

    def answers(self, request: KubeRequest) -> bool:
        """Whether this request is a read that has to be answered from here; pages go on as they began."""
        is_read = request.verb in ("get", "list") and bool(request.resource)
        return is_read and self.covers(request.resource) and "continue" not in request.query

    def holds(self, resource: str, event: dict[str, Any]) -> bool:
        """Whether an event of a watch is later."""
        version = event["object"].get("metadata", {}).get("resourceVersion")
        return self.covers(resource) and version is not None and int(version) > self.version

    async def answer(self, exchange: Exchange) -> web.Response:
        """Answer a get or list as of then, or say what a server that hangs behind says to a later resourceVersion."""
        seen = exchange.seen
        wanted = seen.query.get("resourceVersion", "")
        if wanted.isdecimal() and int(wanted) > self.version:
            text = f"Timeout: Too large resource version: {wanted}, current: {self.version}"
            return status(504, "Timeout", text, retry_after=1)
        if seen.verb == "list":
            return (await exchange.fetch(self._exact(seen.path, dict(seen.query)))).response()
        path = seen.path.rpartition(f"/{seen.name}")[0]
        answer = await exchange.fetch(self._exact(path, {"fieldSelector": f"metadata.name={seen.name}"}))
        found = json.loads(answer.body)
        if answer.status != 200:
            return answer.response()
        if not found["items"]:
            group = f".{seen.group}" if seen.group else ""
            return status(404, "NotFound", f'{seen.resource}{group} "{seen.name}" not found')
        kind = {"kind": found["kind"].removesuffix("List"), "apiVersion": found["apiVersion"]}
        return web.json_response(kind | found["items"][0])

    def _exact(self, path: str, query: dict[str, str]) -> str:
        exact = {"resourceVersion": str(self.version), "resourceVersionMatch": "Exact"}
        return f"{path}?{urllib.parse.urlencode(query | exact)}"
