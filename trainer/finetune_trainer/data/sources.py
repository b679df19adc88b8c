"""Which files a data source's address names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.spec.data import Source
from finetune_trainer.store import ObjectInfo, ObjectStore, match_objects, open_store, split_uri

# How many of the names that do exist are shown when an address matches none.
SHOWN = 5


@dataclass(frozen=True)
class ListedSource:
    """A source of the manifest, found at `path` in it, with its files in byte order of their keys."""

    path: str
    source: Source
    store: ObjectStore
    files: tuple[ObjectInfo, ...]


def list_sources(sources: Sequence[Source], path: str) -> tuple[ListedSource, ...]:
    """Find every source's files; `path` names the list in the manifest, for instance `spec.data.train`.

    Raises DataError for an address that matches nothing, and StorageError where the store cannot be reached; both name
    the field.
    """
    return tuple(_list_source(source, f"{path}[{i}]") for i, source in enumerate(sources))


def listing_digest(listed: Sequence[ListedSource]) -> str:
    """SHA-256 (hex) over how the sources are read and every file's address, size and version: an index's cache key."""
    facts = [
        [
            item.source.model_dump(mode="json"),
            item.store.uri,
            [[file.key, file.size, file.version] for file in item.files],
        ]
        for item in listed
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _list_source(source: Source, path: str) -> ListedSource:
    try:
        root, pattern = split_uri(source.uri)
        store = open_store(root)
        files = tuple(match_objects(store, pattern))
        if not files:
            raise DataError(f"{path}.uri: no file matches {source.uri!r}; {_neighbours(store)}")
    except StorageError as error:
        raise type(error)(f"{path}.uri: {error}") from error
    return ListedSource(path, source, store, files)


def _neighbours(store: ObjectStore) -> str:
    found = [info.key for info in islice(store.list(), SHOWN + 1)]
    if not found:
        return f"nothing exists under {store.uri}: write the address of a folder that holds the files"
    more = " and more" if len(found) > SHOWN else ""
    return f"under {store.uri} there are {', '.join(found[:SHOWN])}{more}: write one of these, or a glob that matches"
