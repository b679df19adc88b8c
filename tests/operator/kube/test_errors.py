"""Every answer of an API server, or of what stands before it, is one typed error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.kube import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
)
from finetune_operator.kube.errors import error_of


def status(**members: Any) -> bytes:
    return json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure", **members}).encode()


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", ApiError),
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (410, "Gone", Gone),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", ServerError),
        (503, "ServiceUnavailable", ServerError),
        (504, "Timeout", ServerError),
    ],
)
def test_the_class_follows_status_and_reason(code: int, reason: str, kind: type[ApiError]) -> None:
    error = error_of(code, status(reason=reason, message="why", code=code))
    assert type(error) is kind
    assert (error.status, error.reason, error.message) == (code, reason, "why")
    assert str(error) == f"{code} {reason}: why"


def test_details_and_the_servers_wish_are_kept() -> None:
    body = status(reason="Invalid", message="why", details={"causes": [{"field": "spec.x"}]})
    assert error_of(422, body).details["causes"] == [{"field": "spec.x"}]
    assert error_of(429, b"", "7").retry_after == 7.0
    assert error_of(429, status(details={"retryAfterSeconds": 3})).retry_after == 3.0
    assert error_of(503, b"", "Wed, 21 Oct 2026 07:28:00 GMT").retry_after is None


@pytest.mark.parametrize(
    "body", [b"", b"404 page not found\n", b"<html>bad gateway</html>", b"[1]", b"null", b"\xff\xfe"]
)
def test_a_body_that_is_no_status_is_no_problem(body: bytes) -> None:
    error = error_of(502, body)
    assert isinstance(error, ServerError)
    assert error.status == 502


def test_a_plain_text_is_the_message() -> None:
    assert error_of(404, b"404 page not found\n").message == "404 page not found"
