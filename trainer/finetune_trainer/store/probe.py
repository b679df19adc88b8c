"""Whether a store keeps the promise that commits rest on: of several writers of one new key, exactly one wins."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from finetune_trainer.errors import StorageError
from finetune_trainer.store.objects import ObjectExists, ObjectStore, StorageRefused

# Enough to catch a store that checks and then acts: such ones let 2 to 16 of 32 writers win.
WRITERS = 8
REMEDY = "use a store with conditional writes (If-None-Match), such as AWS S3, MinIO or versitygw, or a file:// folder"


def probe(store: ObjectStore) -> None:
    """Create, read back and delete one small object; StorageRefused if commits could be lost or doubled here.

    Shows also a missing bucket, wrong credentials and missing rights, before any worker starts. Leaves nothing behind.
    """
    key = f"probe-{secrets.token_hex(8)}"
    list(store.list(key))  # one request alone first: what is wrong with the address or the credentials shows here
    try:
        _race(store, key)
    except StorageError:
        with suppress(StorageError):
            store.delete([key])
        raise
    store.delete([key])


def _race(store: ObjectStore, key: str) -> None:
    payloads = [f"writer {index} of {key}".encode() for index in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        won = [data for data in pool.map(lambda data: data if _create(store, key, data) else None, payloads) if data]
    won += [late for late in (b"late",) if _create(store, key, late)]
    if len(won) != 1:
        raise StorageRefused(f"{store.uri} let {len(won)} of {WRITERS + 1} writers create one object: {REMEDY}")
    if store.get(key) != won[0] or [info.key for info in store.list(key)] != [key]:
        raise StorageRefused(f"{store.uri} does not give back or list what was just written: {REMEDY}")


def _create(store: ObjectStore, key: str, data: bytes) -> bool:
    try:
        store.create(key, data)
    except ObjectExists:
        return False
    return True
