"""What a request to the API server is about, read from its method and path as the API server reads them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

CHANGING = {"create", "update", "patch", "apply", "delete", "deletecollection"}
QUESTIONS = (
    "reviews",
    "token",
)  # creates that store nothing: tokenreviews, subjectaccessreviews, serviceaccounts/token
BACKGROUND = {"leases", "events"}  # written by clocks and for display, so no step of a scenario


@dataclass(frozen=True)
class KubeRequest:
    """One request; `verb` is that of RBAC, with `apply` for server-side apply; other paths have no `resource`."""

    verb: str
    path: str
    query: Mapping[str, str]
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def is_write(self) -> bool:
        """Whether it changes what is stored, if it succeeds."""
        asks = self.resource.endswith(QUESTIONS) or self.subresource in QUESTIONS
        return bool(self.resource) and self.verb in CHANGING and not asks and "dryRun" not in self.query

    @property
    def is_step(self) -> bool:
        """Whether it is a write that belongs to a scenario: leases and events do not."""
        return self.is_write and self.resource not in BACKGROUND


def parse(method: str, target: str, content_type: str = "") -> KubeRequest:
    """Read a request from its method, its path with query, and its content type."""
    path, _, text = target.partition("?")
    query = dict(urllib.parse.parse_qsl(text, keep_blank_values=True))
    parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) > 2:
        group, rest = "", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, rest = parts[1], parts[3:]
    else:
        return KubeRequest(method.lower(), path, query)
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest, "", "")[:3]
    verb = _verb(method, bool(name), query, content_type)
    return KubeRequest(verb, path, query, group, resource, subresource, namespace, name)


def _verb(method: str, named: bool, query: Mapping[str, str], content_type: str) -> str:
    match method:
        case "GET" if query.get("watch", "").lower() in ("1", "true"):
            return "watch"
        case "GET":
            return "get" if named else "list"
        case "DELETE":
            return "delete" if named else "deletecollection"
        case "PATCH":
            return "apply" if "apply-patch" in content_type else "patch"
        case _:
            return {"POST": "create", "PUT": "update"}.get(method, method.lower())
