"""A client of the Kubernetes API server that keeps objects as they are: JSON in, JSON out."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple, Self

from finetune_operator.kube.config import Access, find_access
from finetune_operator.kube.errors import Conflict, Invalid, NotFound
from finetune_operator.kube.resources import Object, Resource
from finetune_operator.kube.transport import Observe, Request, Transport
from finetune_operator.kube.watch import WatchEvent, read_events

FIELD_MANAGER = {"fieldManager": "finetune-operator"}

API_GROUPS = Resource("", "", "apis", "APIGroup", namespaced=False)
SERVER_VERSION = Resource("", "", "version", "Info", namespaced=False)

STALL_SECONDS = 90.0
"""A watch on which no byte came for so long is dead: the API server sends a bookmark each minute."""


PAGE = 200
"""Objects of a list at a time: what is read at once is held at once, and decoded before anything else can run."""


class Page(NamedTuple):
    """A part of a list; all pages of a list show the state at the same `resource_version`."""

    items: list[Object]
    resource_version: str


class Client:
    """Reads and writes objects. Close it, or use it as an asynchronous context manager.

    Every method raises the errors of `finetune_operator.kube.errors` and no other, but for what the guard raises.
    """

    def __init__(self, access: Access, qps: float = 200, burst: int = 400, observe: Observe | None = None) -> None:
        self._transport = Transport(access, qps, burst, observe)

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        qps: float = 200,
        burst: int = 400,
        observe: Observe | None = None,
    ) -> Self:
        """Find the API server: of the kubeconfig, or in-cluster when neither it nor a context is named.

        It lets `qps` requests a second pass, and `burst` at once after a pause. Sends nothing yet. Raises AccessError.
        """
        return cls(await find_access(kubeconfig, context), qps, burst, observe)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self._transport.access.server

    def separate(self, qps: float = 20, burst: int = 40) -> Client:
        """Return a client with the same credentials but its own connections and limit, and without the guard."""
        return Client(self._transport.access, qps, burst, self._transport.observe)

    def guard_writes(self, guard: Callable[[], None]) -> None:
        """Call `guard` right before each write is sent, after all waiting; what it raises keeps the write back."""
        self._transport.guard = guard

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """Read one object."""
        return await self._send("get", resource, resource.path(namespace, name))

    async def versions(self, group: str) -> list[str]:
        """Return the versions of an API group that the server has; none of a group that it does not know."""
        try:
            found = await self._send("get", API_GROUPS, f"/apis/{group}")
        except NotFound:
            return []
        return [one["version"] for one in found["versions"]]

    async def server_version(self) -> Object:
        """Return what the server says of its own version."""
        return await self._send("get", SERVER_VERSION, "/version")

    async def create(self, resource: Resource, body: Object) -> Object:
        """Create an object; raises AlreadyExists. After ServerError and Unreachable it may exist."""
        path = resource.path(body["metadata"].get("namespace")) if "metadata" in body else resource.path()
        return await self._send("create", resource, path, FIELD_MANAGER, body)

    async def apply(self, resource: Resource, body: Object, *, force: bool = True, dry_run: bool = False) -> Object:
        """Create the object, or set the fields that `body` names and no others (server-side apply)."""
        metadata = body["metadata"]
        params = FIELD_MANAGER | {"force": "true" if force else "false"} | ({"dryRun": "All"} if dry_run else {})
        path = resource.path(metadata.get("namespace"), metadata["name"])
        return await self._send("apply", resource, path, params, body)

    async def patch(
        self, resource: Resource, namespace: str | None, name: str, patch: Object, *, subresource: str | None = None
    ) -> Object:
        """Merge `patch` into an object; with a uid or resourceVersion in its metadata into that one, else Conflict."""
        path = resource.path(namespace, name, subresource)
        try:
            return await self._send("patch", resource, path, FIELD_MANAGER, patch)
        except Invalid as error:  # what the API server calls an object that was deleted and made again
            if any(cause.get("field") == "metadata.uid" for cause in error.details.get("causes") or []):
                raise Conflict(409, "Conflict", f"{path} is another object now: {error.message}") from error
            raise

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
        propagation: str = "Background",
    ) -> Object | None:
        """Delete an object if it is the one named, else Conflict. Returns it when something still holds it."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        wanted = {"uid": uid, "resourceVersion": resource_version}
        if preconditions := {field: value for field, value in wanted.items() if value is not None}:
            body["preconditions"] = preconditions
        found = await self._send("delete", resource, resource.path(namespace, name), body=body)
        return None if found.get("kind") == "Status" else found

    async def pages(
        self, resource: Resource, *, namespace: str | None = None, selector: str | None = None, limit: int = PAGE
    ) -> AsyncGenerator[Page, None]:
        """List all objects as they are now, not as a cache of the server may have them, `limit` at a time.

        Raises Gone when the list takes longer than the server keeps that state.
        """
        params = {"limit": str(limit)} | _selecting(selector)
        while True:
            found = await self._send("list", resource, resource.path(namespace), params)
            metadata, items = found["metadata"], found.get("items") or []
            for item in items:  # those of built-in kinds come without
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            yield Page(items, metadata["resourceVersion"])
            if not metadata.get("continue"):
                return
            params["continue"] = metadata["continue"]

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        *,
        namespace: str | None = None,
        selector: str | None = None,
        timeout: float | None = None,
        stall: float = STALL_SECONDS,
    ) -> AsyncGenerator[AsyncIterator[WatchEvent], None]:
        """Follow the changes after `resource_version`, with bookmarks: give them once the server begins.

        They end when the server ends the watch, after `timeout` seconds; None: 5 to 10 minutes, as with Kubernetes' own
        clients. Raises Gone when the changes are compacted away, Unreachable after `stall` seconds without a byte.
        """
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(int(timeout or random.uniform(300, 600))),
        }
        request = Request("watch", resource, resource.path(namespace), params | _selecting(selector))
        async with self._transport.stream(request, stall) as chunks, aclosing(read_events(chunks)) as events:
            yield events

    async def _send(
        self,
        verb: str,
        resource: Resource,
        path: str,
        params: dict[str, str] | None = None,
        body: Object | None = None,
    ) -> Object:
        answer: Object = await self._transport.send(Request(verb, resource, path, params or {}, body))
        return answer


def _selecting(selector: str | None) -> dict[str, str]:
    return {"labelSelector": selector} if selector else {}
