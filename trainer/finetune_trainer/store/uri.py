"""Addresses of stores and of data sources, and which objects a source names."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.errors import StorageError
from finetune_trainer.store.file import FileStore
from finetune_trainer.store.globs import compile_glob, expand_braces, has_magic, literal_prefix
from finetune_trainer.store.objects import ObjectInfo, ObjectNotFound, ObjectStore, StorageRefused
from finetune_trainer.store.s3 import S3Store


def open_store(uri: str) -> ObjectStore:
    """The store at `s3://bucket/prefix` or `file:///folder`; nothing is contacted or made yet.

    S3 takes its endpoint, region and credentials from the usual AWS environment and profile. Addresses are taken as
    they are written: `%20` is three characters. StorageRefused says what to write instead of a malformed one.
    """
    scheme, separator, rest = uri.partition("://")
    if scheme == "s3" and separator:
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise StorageRefused(f"{uri!r} names no bucket: write s3://<bucket>/<prefix>")
        return S3Store(bucket, prefix.strip("/"))
    if scheme == "file" and rest.startswith("/"):
        return FileStore(Path(rest))
    if scheme == "file":
        raise StorageRefused(f"{uri!r} is no absolute local path: write file:///absolute/path")
    raise StorageRefused(f"{uri!r} is no store: write s3://<bucket>/<prefix> or file:///absolute/path")


def split_uri(uri: str) -> tuple[str, str]:
    """The deepest folder that is no glob, as a store's address, and the key or glob below it.

    `s3://b/p/*.jsonl` is `("s3://b/p", "*.jsonl")`, `file:///d/x.jsonl` is `("file:///d", "x.jsonl")`.
    StorageRefused if the address names a folder, or a bucket alone.
    """
    scheme, separator, rest = uri.partition("://")
    first, *segments = rest.split("/")
    if not separator or not segments or not segments[-1]:
        raise StorageRefused(f"{uri!r} names no file: write its address, or a glob such as {uri.rstrip('/')}/*.jsonl")
    if has_magic(first):
        raise StorageRefused(f"{uri!r} has a glob in the bucket's name: write one bucket per source")
    fixed = next((index for index, segment in enumerate(segments) if has_magic(segment)), len(segments) - 1)
    root = "/".join([first, *segments[:fixed]])
    return f"{scheme}://{root or '/'}", "/".join(segments[fixed:])


def find_objects(uri: str) -> tuple[ObjectStore, list[ObjectInfo]]:
    """The store and the objects that a data source's address names, in byte order of their keys; maybe none."""
    root, pattern = split_uri(uri)
    store = open_store(root)
    return store, match_objects(store, pattern)


def match_objects(store: ObjectStore, pattern: str) -> list[ObjectInfo]:
    """The objects whose keys match `pattern` (finetune_trainer.store.globs), in byte order, each once.

    Only keys behind the pattern's literal beginning are listed, and only one level of them where the pattern allows.
    A pattern that matches nothing, but is the key of an object (`a[1].jsonl`), names that object.
    """
    found: dict[str, ObjectInfo] = {}
    for alternative in expand_braces(pattern):
        found.update((info.key, info) for info in _matches(store, alternative))
    if not found:
        found.update((info.key, info) for info in _exactly(store, pattern))
    return [found[key] for key in sorted(found, key=lambda key: key.encode("utf-8", "surrogateescape"))]


def _matches(store: ObjectStore, pattern: str) -> list[ObjectInfo]:
    prefix = literal_prefix(pattern)
    if prefix == pattern:
        return _exactly(store, pattern)
    try:
        matcher = compile_glob(pattern)
    except ValueError as error:
        raise StorageError(f"{store.uri}: {error}") from error
    deep = "/" in pattern[len(prefix) :] or pattern.endswith("**")
    return [info for info in store.list(prefix, recursive=deep) if matcher.fullmatch(info.key)]


def _exactly(store: ObjectStore, key: str) -> list[ObjectInfo]:
    try:
        return [store.head(key)]
    except ObjectNotFound:
        return []
