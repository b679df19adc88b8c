"""Whether stored objects are what a log entry says: size and CRC64NVME of every byte."""

from __future__ import annotations

import io
from collections.abc import Sequence

from finetune_trainer.errors import StorageError
from finetune_trainer.store.checksums import crc64_hex, crc64nvme
from finetune_trainer.store.entries import ObjectRef
from finetune_trainer.store.objects import ObjectNotFound, ObjectStore

CHUNK_BYTES = 4 * 2**20
READS = 2
"""A damaged read may be the network's fault: what counts is what the second one brings."""


class CorruptObject(StorageError):
    """An object is missing, or is not what was stored."""


def find_problems(store: ObjectStore, objects: Sequence[ObjectRef]) -> list[str]:
    """What is wrong with each damaged object, in words; none if all are whole.

    Reads every byte, damaged objects twice. StorageError if the store itself fails: that says nothing of the objects.
    """
    return [problem for ref in objects if (problem := _problem(store, ref)) is not None]


def read_verified(store: ObjectStore, ref: ObjectRef) -> bytes:
    """The object's bytes, checked against size and CRC64NVME; CorruptObject after a second damaged read."""
    problem = ""
    for _ in range(READS):
        held = io.BytesIO(bytes(ref.size + 1))  # one byte more: an object that is too long shows
        try:
            with held.getbuffer() as view:
                size, checksum = store.read_into(ref.key, view)
        except ObjectNotFound:
            raise CorruptObject(f"{store.uri}/{ref.key} is missing") from None
        problem = _difference(ref, size, checksum)
        if not problem:
            held.truncate(size)
            return held.getvalue()
    raise CorruptObject(f"{store.uri}/{problem}")


def read_range(store: ObjectStore, ref: ObjectRef, begin: int, held: memoryview, crc64: int) -> None:
    """Fill `held` with the object's bytes from `begin` on, checked against `crc64`.

    CorruptObject after a second damaged read.
    """
    size, found, end = 0, 0, begin + held.nbytes
    for _ in range(READS):
        try:
            size, found = store.read_into(ref.key, held, begin)
        except ObjectNotFound:
            raise CorruptObject(f"{store.uri}/{ref.key} is missing") from None
        if (size, found) == (held.nbytes, crc64):
            return
    where = f"{store.uri}/{ref.key} is damaged between bytes {begin} and {end}"
    if size < held.nbytes:
        raise CorruptObject(f"{where}: it ends after {begin + size} bytes, not {ref.size}")
    raise CorruptObject(f"{where}: their CRC64NVME is {crc64_hex(found)}, not {crc64_hex(crc64)}")


def _problem(store: ObjectStore, ref: ObjectRef) -> str | None:
    problem = ""
    for _ in range(READS):
        try:
            problem = _difference(ref, *_measure(store, ref))
        except ObjectNotFound:
            return f"{ref.key} is missing"
        if not problem:
            return None
    return problem


def _measure(store: ObjectStore, ref: ObjectRef) -> tuple[int, int]:
    """Size in bytes and CRC64NVME of the stored object, of which no more than one chunk too many is read."""
    chunk = memoryview(bytearray(min(CHUNK_BYTES, ref.size + 1)))
    size = checksum = 0
    with store.open(ref.key) as file:
        while size <= ref.size and (count := file.readinto(chunk)):
            checksum = crc64nvme(chunk[:count], checksum)
            size += count
    return size, checksum


def _difference(ref: ObjectRef, size: int, checksum: int) -> str:
    if size > ref.size:  # not read to its end, so that its checksum is not known
        return f"{ref.key} has more than {ref.size} bytes, not {ref.size}"
    found = crc64_hex(checksum)
    if size < ref.size:
        return f"{ref.key} has {size} bytes, not {ref.size}: its CRC64NVME is {found}, not {ref.crc64}"
    return "" if found == ref.crc64 else f"{ref.key} is damaged: its CRC64NVME is {found}, not {ref.crc64}"
