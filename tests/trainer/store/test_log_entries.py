"""A log entry's file is whole and right, or an error that names it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import StorageError
from finetune_trainer.store import Checkpoint, Claim, Entry, Identity, ObjectRef, Pin, Quarantine, Retire, entries
from finetune_trainer.store.checksums import crc64_hex, crc64nvme
from finetune_trainer.store.entries import decode, encode, timestamp
from finetune_trainer.store.history import History, fold

HEAD = {"attempt": 1, "writer": "a" * 16, "time": timestamp(1_800_000_000.125)}
CLAIM = Claim(seq=1, **HEAD, identity=Identity(hash="h", fields={"spec.training.seed": 0}), info={"host": "é"})
CHECKPOINT = Checkpoint(
    seq=2,
    **HEAD,
    step=10,
    parent=None,
    identity="h",
    objects=(ObjectRef("team.job/data/10-1-x/a", 3, "0123456789abcdef"),),
    body={"tensors": {"w": [[0, 2], [1.5, None, True]]}, "note": "日本"},
)
ENTRIES: list[Entry] = [
    CLAIM,
    CHECKPOINT,
    Quarantine(seq=3, **HEAD, target=2, reason="bad"),
    Pin(seq=4, **HEAD, target=2, pinned=False),
    Retire(seq=5, **HEAD, targets=(2,), live=(7,), quarantined=(7,), pinned=()),
]


def sealed(fields: dict[str, object]) -> bytes:
    """A file with a right checksum over any fields."""
    body = json.dumps(fields).encode()[:-1]
    return body + f',"crc64":"{crc64_hex(crc64nvme(body))}"}}\n'.encode()


def fields_of(entry: Entry) -> dict[str, object]:
    found: dict[str, object] = json.loads(encode(entry))
    del found["crc64"]
    return found


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.kind)
def test_an_entry_is_read_back_as_it_was(entry: Entry) -> None:
    assert decode(encode(entry), "log/1.json") == entry


def test_an_entry_is_json_that_people_can_read() -> None:
    text = encode(CHECKPOINT).decode()
    assert text.startswith('{"formatVersion":1,"seq":2,"kind":"checkpoint","attempt":1,')
    assert '"note":"日本"' in text
    assert set(json.loads(text)) == {
        *("formatVersion", "seq", "kind", "attempt", "writer", "time", "crc64"),
        *("step", "parent", "identity", "objects", "body"),
    }


def test_an_entry_cut_off_anywhere_is_an_error() -> None:
    data = encode(CHECKPOINT)
    for length in range(len(data) - 1):  # without its line end it is still whole
        with pytest.raises(StorageError, match=r"log/1\.json is no valid log entry"):
            decode(data[:length], "log/1.json")


@settings(max_examples=300, deadline=None)
@given(bit=st.integers(0, len(encode(CHECKPOINT)) * 8 - 9))
def test_an_entry_with_any_bit_flipped_is_an_error(bit: int) -> None:
    data = bytearray(encode(CHECKPOINT))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StorageError, match=r"log/1\.json"):
        decode(bytes(data), "log/1.json")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"\xff\xfe", b'{"formatVersion":1}', b"PK\x03\x04", b"[" * 100_000]
)
def test_foreign_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises(StorageError, match=r"log/1\.json is no valid log entry"):
        decode(data, "log/1.json")


def test_a_newer_format_asks_for_a_newer_program() -> None:
    for data in (
        sealed(fields_of(CLAIM) | {"formatVersion": 2, "new": 1}),
        b'{"formatVersion": 3, "sealed": "otherwise"}',
    ):
        with pytest.raises(
            StorageError, match=r"log/1\.json has format version [23], .* use the newer finetune-operator"
        ):
            decode(data, "log/1.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"unknown": 1}, "unknown"),
        ({"seq": "2"}, "seq"),
        ({"seq": 0}, "seq"),
        ({"step": 1.5}, "step"),
        ({"writer": "A" * 16}, "writer"),
        ({"time": "2026-01-01T00:00:00"}, "time"),
        ({"kind": "commit"}, "commit"),
        ({"objects": [{"key": "a", "size": -1, "crc64": "0" * 16}]}, r"objects\.0\.size"),
        ({"objects": [{"key": "a", "size": 1, "crc64": "0"}]}, r"objects\.0\.crc64"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(StorageError, match=rf"log/1\.json is no valid log entry \(.*{named}"):
        decode(sealed(fields_of(CHECKPOINT) | change), "log/1.json")


def test_an_entry_beyond_the_size_limit_is_refused_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_ENTRY_BYTES", 1000)
    huge = CHECKPOINT.model_copy(update={"body": {"x": "y" * 1000}})
    with pytest.raises(StorageError, match="the limit is"):
        encode(huge)
    with pytest.raises(StorageError, match="larger than"):
        decode(b"x" * 1001, "log/1.json")


def test_a_retire_entry_sums_up_what_came_before() -> None:
    log: list[Entry] = [CLAIM]
    log += [CHECKPOINT.model_copy(update={"seq": seq}) for seq in (2, 3, 4, 5)]
    log += [Quarantine(seq=6, **HEAD, target=3, reason="bad"), Pin(seq=7, **HEAD, target=2)]
    log += [Retire(seq=8, **HEAD, targets=(4,), live=(2, 3, 5), quarantined=(3,), pinned=(2,))]
    log += [CHECKPOINT.model_copy(update={"seq": 9}), Pin(seq=10, **HEAD, target=2, pinned=False)]
    history = fold(log)
    assert history == fold(log[7:])
    assert history == History(10, 1, "a" * 16, live=(2, 3, 5, 9), quarantined=frozenset({3}), pinned=frozenset())
    assert history.good == (2, 5, 9)


def test_an_entry_by_a_writer_without_a_claim_is_an_error() -> None:
    with pytest.raises(StorageError, match="does not honour conditional writes"):
        fold([CLAIM, CHECKPOINT.model_copy(update={"writer": "b" * 16})])
    with pytest.raises(StorageError, match="does not follow"):
        fold([CLAIM, CHECKPOINT.model_copy(update={"seq": 3})])
