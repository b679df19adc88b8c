"""Addresses of models, data, checkpoints and results: the checks of `finetune_trainer.spec.uri`, in CEL."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.cel.rule import Check, Rule, text, texts
from finetune_trainer.spec.uri import BUCKET, HUB_REPOSITORY, IPV4

ADDRESSES = {
    "spec.model": ("s3", "file", "hf"),
    "spec.model.checkpoint": ("s3", "file"),
    "spec.data.train[]": ("s3", "file"),
    "spec.data.eval[]": ("s3", "file"),
    "spec.checkpoint": ("s3", "file"),
    "spec.output": ("s3", "file"),
}
"""Objects with a member `uri`, and the schemes it may have; those of `spec.data` are globs."""

PLAIN = {
    True: r"^s3://[a-z0-9][a-z0-9-]{1,61}[a-z0-9](/[A-Za-z0-9_*-][A-Za-z0-9_.*-]*)+$",
    False: r"^s3://[a-z0-9][a-z0-9-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*/?$",
}
"""What most addresses look like, globs (True) and places: no mistake looks so, which is seen at once.

Asking for every mistake by itself took a quarter of what all rules took the API server for a new job.
"""

SCHEME = "self.uri.split('://')[0]"
REST = "self.uri.substring(self.uri.indexOf('://') + 3)"
BUCKET_NAME = "self.uri.split('/')[2]"
SECRET = "self.uri.find('://[^/]*@')"
HIDDEN = f"{SCHEME} + '://***@' + self.uri.substring(self.uri.indexOf({SECRET}) + {SECRET}.size())"
SHOWN = (
    f"({SECRET} != '' && (!self.uri.startsWith('hf://') || {REST}.contains(':')) ? {HIDDEN} : self.uri)"
    ".replace('\\n', '\\\\n')"
)
"""The address without credentials, in one line."""


def address_rules() -> tuple[Rule, ...]:
    """One rule for each address."""
    return tuple(
        Rule(
            at,
            "uri",
            tuple(Check(*mistake) for mistake in _mistakes(at, schemes)),
            "uri",
            found=SHOWN,
            given=f"!self.uri.matches({text(PLAIN[_is_glob(at)])})",
        )
        for at, schemes in ADDRESSES.items()
    )


def _mistakes(at: str, schemes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    glob = _is_glob(at)
    yield from _without_scheme(schemes)
    allowed = " or ".join(f"{scheme}://" for scheme in schemes)
    yield (
        f"!({SCHEME} in {texts(schemes)})",
        f"has the scheme '{{{SCHEME}}}': write an address that begins with {allowed}",
    )
    yield (
        "self.uri.matches('[\\\\x00-\\\\x1f\\\\x7f]') || self.uri.trim() != self.uri",
        "has a control character or a space at an end: remove it",
    )
    yield f"'..' in {REST}.split('/')", "has a '..' segment: write the path without it"
    yield (
        f"{REST}.matches('\\\\?[A-Za-z_][A-Za-z0-9_-]*=')",
        "has a query: write the address without '?...'; endpoint and region are no part of it",
    )
    if not glob:
        yield (
            f"!self.uri.startsWith('hf://') && {REST}.matches('[*?\\\\[\\\\]]')",
            "has a glob character (* ? [ ]): write one exact place",
        )
    yield from _s3()
    yield (
        f"self.uri.startsWith('file://') && !{REST}.startsWith('/') && !{REST}.startsWith('./')",
        "is no local path: write file:///absolute/path, or file://./path for a path relative to the manifest",
    )
    if "hf" in schemes:
        yield from _hub()
    if glob:
        yield from _files()


def _is_glob(at: str) -> bool:
    return at.startswith("spec.data.")


def _without_scheme(schemes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    none = "!self.uri.contains('://')"
    example = " or ".join(f"{scheme}://{{self.uri}}" for scheme in schemes if scheme != "file")
    yield f"{none} && self.uri.startsWith('/')", "has no scheme: write file://{self.uri}"
    yield (
        f"{none} && (self.uri.startsWith('./') || self.uri.startsWith('~'))",
        "has no scheme: write file:///absolute/path, or file://./path for a path relative to the manifest",
    )
    yield none, f"has no scheme: write {example}"


def _s3() -> Iterator[tuple[str, str]]:
    yield (
        f"self.uri.startsWith('s3://') && {BUCKET_NAME}.contains('@')",
        "holds credentials: write s3://<bucket>/<key> and give the keys through the environment, an AWS profile "
        "or spec.storage.secretRef",
    )
    well_formed = f"{BUCKET_NAME}.matches({text(BUCKET.pattern)})"
    yield (
        f"self.uri.startsWith('s3://') && (!{well_formed} || {BUCKET_NAME}.contains('..') || "
        f"{BUCKET_NAME}.matches({text(IPV4.pattern)}))",
        f"'{{{BUCKET_NAME}}}' is no bucket name: write s3://<bucket>/<key> with 3 to 63 lower-case letters, digits, "
        "dots and dashes for the bucket; the endpoint is set by the runtime or AWS_ENDPOINT_URL",
    )
    yield (
        f"self.uri.startsWith('s3://') && {REST}.contains('//')",
        "has an empty path segment: write one slash between two segments",
    )


def _hub() -> Iterator[tuple[str, str]]:
    yield (
        f"self.uri.startsWith('hf://') && {REST}.contains(':')",
        "holds a colon: write hf://<org>/<name>@<revision> and give the token through HF_TOKEN",
    )
    yield (
        f"self.uri.startsWith('hf://') && !{REST}.matches({text(HUB_REPOSITORY.pattern)})",
        "is no hub repository: write hf://<org>/<name>@<revision>",
    )


def _files() -> Iterator[tuple[str, str]]:
    yield (
        f"!{REST}.matches('^([^\\\\[]|\\\\[[!^]?[^/][^\\\\]/]*\\\\])*$')",
        "has a '[' without a ']': close it, or write [[] for the character itself",
    )
    yield (
        f"{REST}.endsWith('/') || !{REST}.contains('/')",
        "names a folder: write the files, for instance {self.uri.find('.*[^/]')}/*.jsonl",
    )
