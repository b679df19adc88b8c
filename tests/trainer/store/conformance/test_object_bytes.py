"""Bytes go into every store and come back as they were: any buffer, any size, any range."""

from __future__ import annotations

import io
import os
import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.store import ObjectNotFound, ObjectStore, open_store
from finetune_trainer.store.checksums import crc64nvme
from s3_bucket import Bucket


def test_ranges_are_exact_and_end_with_the_object(store: ObjectStore) -> None:
    data = bytes(range(256)) * 40
    store.create("a", data)
    for start, length in [(0, 1), (1, 5000), (10_000, None), (10_239, 1), (10_000, 10_000), (0, 0), (3, 0)]:
        stop = None if length is None else start + length
        assert store.get("a", start, length) == data[start:stop], (start, length)
    assert store.get("a", 10_240) == b""
    assert store.get("a", 20_000, 5) == b""


def test_ranges_are_read_into_memory_that_is_given_with_their_checksum(store: ObjectStore) -> None:
    data = np.random.default_rng(1).bytes(3 * 2**20 + 17)
    store.create("a", data)
    held = memoryview(bytearray(b"\xff" * len(data) + b"\xff"))
    for start, length in [(0, len(data)), (0, 1), (5, 2**20), (2**20 - 1, 2**20 + 2), (len(data) - 3, 9), (9**9, 4)]:
        held[:] = b"\xff" * len(held)
        wanted = data[start : start + length]
        assert store.read_into("a", held[:length], start) == (len(wanted), crc64nvme(wanted)), (start, length)
        assert held[: len(wanted)] == wanted
        assert held[len(wanted) :] == b"\xff" * (len(held) - len(wanted))
    assert store.read_into("a", b"") == (0, 0)
    for buffer in (b"", bytearray(8)):
        with pytest.raises(ObjectNotFound):
            store.read_into("b", buffer)


def test_any_range_of_any_object_is_that_slice_of_its_bytes(store: ObjectStore) -> None:
    """Sizes around those of our reads, of botocore's and of bodies that are sent without asking first."""
    sizes = [0, 1, 16 * 2**10, *(edge + by for edge in (2**16, 2**18, 2**20) for by in (-1, 0, 1)), 2**21 + 2**18 + 5]
    objects = {f"of/{size}": np.random.default_rng(size).bytes(size) for size in sizes}
    for key, data in objects.items():
        store.create(key, memoryview(data))
    numbers = st.one_of(st.sampled_from(sizes), st.integers(0, sizes[-1]))

    @settings(max_examples=60, derandomize=True, deadline=None, database=None)
    @given(st.sampled_from(sorted(objects)), numbers, st.none() | numbers, st.lists(numbers, max_size=3))
    def check(key: str, start: int, length: int | None, seeks: list[int]) -> None:
        data = objects[key]
        wanted = data[start:] if length is None else data[start : start + length]
        assert store.get(key, start, length) == wanted
        held = bytearray(len(wanted))
        assert store.read_into(key, held, start) == (len(wanted), crc64nvme(wanted))
        assert held == wanted
        with store.open(key) as file:
            for place in seeks:
                file.seek(place)
                assert file.read(length) == (data[place:] if length is None else data[place : place + length])

    check()


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.create("empty", b"")
    assert store.get("empty") == b""
    assert store.get("empty", 0, 10) == b""
    assert store.open("empty").read() == b""
    assert store.head("empty").size == 0


def test_any_buffer_can_be_stored(store: ObjectStore) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    flat = array.tobytes()
    store.create("array", array.data)
    store.create("view", memoryview(flat)[4:12])
    store.create("bytearray", bytearray(flat))
    assert store.get("array") == flat
    assert store.get("view") == flat[4:12]
    assert store.get("bytearray") == flat
    with pytest.raises(ValueError, match="contiguous"):
        store.create("strided", array[:, ::2].data)


def test_a_big_object_goes_through_whole(store: ObjectStore) -> None:
    data = np.random.default_rng(0).integers(0, 256, 64 * 2**20, dtype=np.uint8)
    store.create("big", data.data)
    assert np.array_equal(np.frombuffer(store.get("big"), np.uint8), data)
    assert store.get("big", 2**20 + 1, 2**20) == data[2**20 + 1 : 2**21 + 1].tobytes()


def test_a_body_is_sent_to_s3_as_it_lies_in_memory(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []

    def sendall(connection: socket.socket, data: memoryview, *flags: int) -> None:
        sent.append(data)
        super(socket.socket, connection).sendall(data, *flags)

    array = np.arange(2**20, dtype=np.float64)
    store = open_store(bucket.uri)
    monkeypatch.setattr(socket.socket, "sendall", sendall, raising=False)
    store.create("array", array.data)
    bodies: list[Any] = [memoryview(data) for data in sent if isinstance(data, memoryview)]
    assert all(body.obj is array for body in bodies)
    assert [body.nbytes for body in bodies] == [2**21] * 4  # each has CONNECT_SECONDS


def test_an_open_object_is_read_in_pieces_and_seeks(store: ObjectStore) -> None:
    data = os.urandom(3_000_000)
    store.create("a", data)
    with store.open("a") as file:
        assert file.read(10) == data[:10]
        assert file.seek(-5, io.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.seek(1_500_000) == 1_500_000
        assert file.read(2_000_000) == data[1_500_000:]
        assert file.read(1) == b""
        assert file.seek(0) == 0
        assert b"".join(iter(lambda: file.read(100_000), b"")) == data
