"""What the API server can answer instead of what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


class ApiError(Exception):
    """A request that was not granted: HTTP status, reason and details as in a Kubernetes Status object.

    `retry_after` is the server's wish in seconds, if it sent one.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}" if self.status else self.message


class Unauthorized(ApiError):
    """401: the credentials are missing, wrong or expired."""


class Forbidden(ApiError):
    """403: RBAC, an admission plugin or a quota said no."""


class NotFound(ApiError):
    """404: no such object, or no such kind on this server."""


class AlreadyExists(ApiError):
    """409 to a create: the name is taken."""


class Conflict(ApiError):
    """409: the object is not, or no longer, the one of the precondition."""


class Gone(ApiError):
    """410: the history that a watch or a continued list needs is compacted. List again."""


class Invalid(ApiError):
    """422: the object breaks its schema or a rule; `details["causes"]` names the fields."""


class TooManyRequests(ApiError):
    """429: refused before anything was done, because there is too much to do."""


class ServerError(ApiError):
    """5xx: the server failed. A write may have been done nevertheless: read before deciding."""


class Unreachable(ApiError):
    """No answer, half an answer or none in JSON. A write may have been done nevertheless: read before deciding."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "Unreachable", message)


UNAVAILABLE = (ServerError, TooManyRequests, Unreachable)
"""What lies in the server's state alone: the same request may be answered another time."""

_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def error_of(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """Return the error that an answer with an HTTP status of 400 or more means; the body may be anything."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = body.decode(errors="replace")[:500].strip()
    wish = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return error_of_status(found if isinstance(found, dict) else {"message": str(found)}, status, wish)


def error_of_status(found: Mapping[str, Any], status: int, retry_after: float | None = None) -> ApiError:
    """Return the error that a Kubernetes Status object means; `status` is the HTTP status to go by."""
    reason = found.get("reason") or ""
    details = found.get("details") or {}
    kind = ServerError if status >= 500 else _BY_STATUS.get(status, ApiError)
    if kind is Conflict and reason == "AlreadyExists":
        kind = AlreadyExists
    if retry_after is None and details.get("retryAfterSeconds"):
        retry_after = float(details["retryAfterSeconds"])
    return kind(status, reason or kind.__name__, found.get("message") or "no message", details, retry_after)
