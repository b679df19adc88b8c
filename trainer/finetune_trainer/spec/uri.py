"""Where things lie: `s3://`, `file://` and `hf://` addresses, checked as far as a string can be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

# S3 allows keys of 1024 bytes; the bucket and the scheme come on top.
MAX_LENGTH = 1024
BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
IPV4 = re.compile(r"^\d+\.\d+\.\d+\.\d+$")
_HUB_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
HUB_REPOSITORY = re.compile(rf"^{_HUB_NAME}(/{_HUB_NAME})?(@[A-Za-z0-9._/-]{{1,128}})?$")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
GLOB = re.compile(r"[*?\[\]]")
CHARACTER_CLASS = re.compile(r"\[[!^]?[^/][^\]]*\]")
SERVER = re.compile(rf"^[a-z]+://[^@?#\s]{{1,{MAX_LENGTH - 8}}}$")
QUERY = re.compile(r"\?[A-Za-z_][A-Za-z0-9_-]*=")


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("uri", "{message}", {"message": message})


def _check_s3(rest: str) -> None:
    bucket = rest.partition("/")[0]
    if "@" in bucket:
        raise _refuse(
            "holds credentials: write s3://<bucket>/<key> and give the keys through the environment, an AWS profile "
            "or spec.storage.secretRef"
        )
    if not BUCKET.match(bucket) or ".." in bucket or IPV4.match(bucket):
        raise _refuse(
            f"{bucket!r} is no bucket name: write s3://<bucket>/<key> with 3 to 63 lower-case letters, digits, dots "
            "and dashes for the bucket; the endpoint is set by the runtime or AWS_ENDPOINT_URL"
        )
    if "//" in rest:
        raise _refuse("has an empty path segment: write one slash between two segments")


def _check_file(rest: str) -> None:
    if not rest.startswith(("/", "./")):
        raise _refuse(
            "is no local path: write file:///absolute/path, or file://./path for a path relative to the manifest"
        )


def _check_hub(rest: str) -> None:
    if ":" in rest:
        raise _refuse("holds a colon: write hf://<org>/<name>@<revision> and give the token through HF_TOKEN")
    if not HUB_REPOSITORY.match(rest):
        raise _refuse("is no hub repository: write hf://<org>/<name>@<revision>")


_CHECKS: dict[str, Callable[[str], None]] = {"s3": _check_s3, "file": _check_file, "hf": _check_hub}


def check_uri(uri: str, schemes: tuple[str, ...], *, glob: bool) -> str:
    """Returns `uri` if it is well-formed and has one of `schemes`; raises `PydanticCustomError` otherwise."""
    allowed = " or ".join(f"{scheme}://" for scheme in schemes)
    if not uri or len(uri) > MAX_LENGTH:
        raise _refuse(f"has {len(uri)} characters: write an address of 1 to {MAX_LENGTH} characters")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        raise _refuse(f"has no scheme: write {_with_scheme(uri, schemes)}")
    if scheme not in schemes:
        raise _refuse(f"has the scheme {scheme!r}: write an address that begins with {allowed}")
    if CONTROL.search(uri) or uri != uri.strip():
        raise _refuse("has a control character or a space at an end: remove it")
    if ".." in rest.split("/"):
        raise _refuse("has a '..' segment: write the path without it")
    if QUERY.search(rest):
        raise _refuse("has a query: write the address without '?...'; endpoint and region are no part of it")
    if not glob and scheme != "hf" and GLOB.search(rest):
        raise _refuse("has a glob character (* ? [ ]): write one exact place")
    _CHECKS[scheme](rest)
    return uri


def _with_scheme(uri: str, schemes: tuple[str, ...]) -> str:
    if uri.startswith("/"):
        return f"file://{uri}"
    if uri.startswith("./") or uri.startswith("~"):
        return "file:///absolute/path, or file://./path for a path relative to the manifest"
    return " or ".join(f"{scheme}://{uri}" for scheme in schemes if scheme != "file")


def _check_model(uri: str) -> str:
    return check_uri(uri, ("s3", "file", "hf"), glob=False)


def _check_source(uri: str) -> str:
    check_uri(uri, ("s3", "file"), glob=True)
    _, _, path = uri.partition("://")
    if any("[" in CHARACTER_CLASS.sub("", segment) for segment in path.split("/")):
        raise _refuse("has a '[' without a ']': close it, or write [[] for the character itself")
    if not path.rpartition("/")[2] or "/" not in path:
        raise _refuse(f"names a folder: write the files, for instance {uri.rstrip('/')}/*.jsonl")
    return uri


def _check_store(uri: str) -> str:
    return check_uri(uri, ("s3", "file"), glob=False)


def _check_server(uri: str, schemes: tuple[str, ...] = ("https", "http")) -> str:
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in schemes or (scheme == "file" and not rest.startswith("/")):
        folder = ", or file:///folder for a folder of this machine" if "file" in schemes else ""
        raise _refuse(f"is no address of a server: write https://host:port{folder}")
    if "@" in rest:
        raise _refuse("holds credentials: write https://host:port and give them through secretRef or the environment")
    if not SERVER.match(uri):
        raise _refuse("has a query, a fragment, a space or no host: write https://host:port")
    return uri


def _check_tracking(uri: str) -> str:
    return _check_server(uri, ("https", "http", "file"))


def _server_schema(schemes: str) -> WithJsonSchema:
    pattern = f"^({schemes})[^@?#\\s]+$"
    return WithJsonSchema({"type": "string", "minLength": 8, "maxLength": MAX_LENGTH, "pattern": pattern})


def _schema(schemes: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "minLength": 6, "maxLength": MAX_LENGTH, "pattern": f"^({schemes})://.+$"})


ModelUri = Annotated[str, AfterValidator(_check_model), _schema("s3|file|hf")]
SourceUri = Annotated[str, AfterValidator(_check_source), _schema("s3|file")]
StoreUri = Annotated[str, AfterValidator(_check_store), _schema("s3|file")]
ServerUri = Annotated[str, AfterValidator(_check_server), _server_schema("https?://")]
TrackingUri = Annotated[str, AfterValidator(_check_tracking), _server_schema("https?://|file:///")]


def absolute_uri(uri: str, base: Path) -> str:
    """`file://./x` becomes `file://<base>/x` for an absolute `base`; every other address stays as it is."""
    relative = uri.removeprefix("file://./")
    return uri if relative == uri else f"file://{base / relative}"


def is_inside(uri: str, folder: str) -> bool:
    """Whether `uri` is `folder` or lies below it, by whole path segments."""
    return (uri.rstrip("/") + "/").startswith(folder.rstrip("/") + "/")
