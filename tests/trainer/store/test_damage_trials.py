"""Every flipped bit, lost end and exchanged object is found, and told with what was expected and what was there."""

from __future__ import annotations

import random

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.store import (
    Checkpoint,
    CorruptObject,
    ObjectStore,
    RunLog,
    crc64_hex,
    crc64nvme,
    read_verified,
    verify,
)
from small_run import ME, save
from soak import trials

SIZES = (1, 17, 4096, 2**17, 1_000_001)  # among them one of whole chunks


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of many chunks, without the time that large ones take."""
    monkeypatch.setattr(verify, "CHUNK_BYTES", 2**16)


def flip_bits(rng: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for bit in rng.sample(range(8 * len(data)), min(8 * len(data), rng.choice([1, 1, 1, 2, 3, 64]))):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut_off(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.choice([0, len(data) - 1, rng.randrange(len(data))])]


def zero_a_range(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """What a block that never reached the disk reads as."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + bytes(end - start) + data[end:]


def drop_a_range(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def grow(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data + rng.randbytes(rng.choice([1, 100]))


def exchange(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return other


WAYS = (flip_bits, flip_bits, cut_off, zero_a_range, drop_a_range, grow, exchange)


def damaged(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The bytes damaged in a way chosen at random; `other` are those of another object."""
    while (changed := rng.choice(WAYS)(rng, data, other)) == data:
        continue
    return changed


def checkpoint(log: RunLog) -> tuple[Checkpoint, Checkpoint]:
    """A small good checkpoint, and above it one with an object of each size."""
    writer, rng = log.claim(ME), random.Random(0)
    good = save(writer, 1)
    folder = writer.new_checkpoint(2)
    objects = [writer.write(folder, f"rank{i}/state", rng.randbytes(size)) for i, size in enumerate(SIZES)]
    return good, writer.commit(2, good.seq, objects, {})


@trials(share=100, whole=2000)  # on each of two kinds of store
def test_a_damaged_object_of_a_checkpoint_is_found_whatever_happened_to_it(
    trials: range, log: RunLog, store: ObjectStore
) -> None:
    good, bad = checkpoint(log)
    whole = {ref.key: store.get(ref.key) for ref in bad.objects}
    for trial in trials:
        rng = random.Random(trial)
        ref, other = rng.sample(bad.objects, 2)
        changed = damaged(rng, whole[ref.key], whole[other.key])
        store.put(ref.key, changed)
        found = RunLog(store, log.journal.run_id).latest_good()
        assert found.entry == good, f"trial {trial}"
        (problem,) = found.damaged[0].problems
        if len(changed) > ref.size:
            assert problem == f"{ref.key} has more than {ref.size} bytes, not {ref.size}"
        else:
            assert problem.startswith(f"{ref.key} ")
            assert f"its CRC64NVME is {crc64_hex(crc64nvme(changed))}, not {ref.crc64}" in problem
            assert len(changed) == ref.size or f"has {len(changed)} bytes, not {ref.size}" in problem
        with pytest.raises(CorruptObject) as caught:
            read_verified(store, ref)
        assert str(caught.value) == f"{store.uri}/{problem}"
        store.put(ref.key, whole[ref.key])
    assert log.verify(bad) == []


@trials(share=100, whole=2000)
def test_a_damaged_entry_of_the_log_is_named_whatever_happened_to_it(
    trials: range, log: RunLog, store: ObjectStore
) -> None:
    good, newest = checkpoint(log)
    log.writer(good.attempt, good.writer).pin(good)
    keys = [info.key for info in store.list("team.job/log/")]
    whole = {key: store.get(key) for key in keys}
    for trial in trials:
        rng = random.Random(trial)
        key, other = rng.sample(keys, 2)
        changed = damaged(rng, whole[key], whole[other])
        if changed == whole[key].rstrip(b"\n"):
            continue  # everything but the line end is there, and says the same
        store.put(key, changed)
        with pytest.raises(StorageError) as caught:
            RunLog(store, log.journal.run_id).latest_good()
        told = str(caught.value).removeprefix(f"{store.uri}/{key} ")
        assert told.startswith(("is no valid log entry (it is cut off or damaged: it", "says it is entry")), (
            f"trial {trial}"
        )
        store.put(key, whole[key])
    assert RunLog(store, log.journal.run_id).latest_good().entry == newest
