"""Objects in blocks: which bytes are read for what is wanted, and what checks them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as parse_safetensors

from finetune_trainer.engine import blocks
from finetune_trainer.engine.blocks import ObjectBlocks, Span, needed
from finetune_trainer.engine.fragments import KINDS
from finetune_trainer.engine.share import Piece, TensorObject
from finetune_trainer.source import CheckpointSource
from finetune_trainer.store import CorruptObject, RunLog, open_store
from finetune_trainer.store.checksums import crc64nvme
from small_run import ME, damage

BLOCK = 64
PIECES = (("wide", 32, 50), ("small", 0, 3), ("next", 7, 16))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(blocks, "READ_BYTES", 4 * BLOCK)


@pytest.fixture
def stored() -> tuple[TensorObject, bytearray]:
    """An object of three pieces and its bytes."""
    torch.manual_seed(0)
    pieces = [Piece(name, (100,), start, {kind: torch.randn(n) for kind in KINDS}) for name, start, n in PIECES]
    one = TensorObject("state-00000-00000.safetensors", tuple(pieces))
    data = bytearray(one.size)
    one.fill(memoryview(data))
    return one, data


def test_an_object_is_a_safetensors_file_of_its_tensors(stored: tuple[TensorObject, bytearray]) -> None:
    one, data = stored
    found = parse_safetensors(bytes(data))
    assert len(found) == len(PIECES) * len(KINDS)
    for piece in one.pieces:
        for kind in KINDS:
            assert torch.equal(found[f"{kind}|{piece.start}|{piece.name}"], piece.tensors[kind])


def test_the_checksum_of_the_whole_follows_from_those_of_its_blocks(stored: tuple[TensorObject, bytearray]) -> None:
    one, data = stored
    _, whole = one.measure(memoryview(data))
    assert whole == crc64nvme(data)


def test_places_of_tensors_are_where_their_bytes_are(stored: tuple[TensorObject, bytearray]) -> None:
    one, data = stored
    found, _ = one.measure(memoryview(data))
    tensors = {(name, kind): data[begin:end] for name, _, kind, begin, end in found.tensors()}
    for piece in one.pieces:
        for kind in KINDS:
            assert bytes(tensors[piece.name, kind]) == piece.tensors[kind].numpy().tobytes()


def test_whatever_is_wanted_is_read_in_whole_blocks_with_their_checksums(
    stored: tuple[TensorObject, bytearray],
) -> None:
    one, data = stored
    found, _ = one.measure(memoryview(data))
    generator = random.Random(1)
    for _ in range(300):
        cuts = sorted(generator.sample(range(found.data, len(data) + 1), 2 * generator.randint(1, 4)))
        wanted = list(zip(cuts[::2], cuts[1::2], strict=True))
        spans = needed(found, wanted)
        read = {byte for span in spans for byte in range(span.begin, span.end)}
        assert all(set(range(low, high)) <= read for low, high in wanted)
        assert len(read) == sum(span.end - span.begin for span in spans)  # nothing twice
        for span in spans:
            assert crc64nvme(data[span.begin : span.end]) == span.crc64
            assert span.end - span.begin <= 4 * BLOCK
        for low, high in wanted:  # no block that has nothing of it
            assert all(any(low < span.end and span.begin < high for low, high in wanted) for span in spans)


def test_nothing_wanted_is_nothing_read(stored: tuple[TensorObject, bytearray]) -> None:
    one, data = stored
    assert needed(one.measure(memoryview(data))[0], []) == []


def test_blocks_survive_their_file(stored: tuple[TensorObject, bytearray]) -> None:
    one, data = stored
    found, _ = one.measure(memoryview(data))
    assert ObjectBlocks.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_part_of_a_damaged_object_names_object_bytes_and_checksums(how: str, tmp_path: Path) -> None:
    log = RunLog(open_store(f"file://{tmp_path}"), "team.run")
    writer, data = log.claim(ME), bytes(range(256))
    entry = writer.commit(1, None, [writer.write(writer.new_checkpoint(1), "state", data)], {})
    source = CheckpointSource(log.journal.store, entry)
    spans = [Span(100, 156, crc64nvme(data[100:156])), Span(200, 256, crc64nvme(data[200:]))]
    assert [bytes(source.part("state", span)) for span in spans] == [data[100:156], data[200:]]
    damage(log.journal.store, entry.objects[0], how)
    bad = spans[0] if how == "flipped" else spans[1]
    with pytest.raises(CorruptObject) as caught:
        source.part("state", bad)
    expected = {
        "flipped": f"is damaged between bytes 100 and 156: their CRC64NVME is .*, not {bad.crc64:016x}",
        "truncated": "is damaged between bytes 200 and 256: it ends after 255 bytes, not 256",
        "missing": "is missing",
    }
    assert entry.objects[0].key in str(caught.value)
    caught.match(expected[how])
    if how != "missing":
        other = spans[0] if bad is spans[1] else spans[1]
        assert bytes(source.part("state", other)) == data[other.begin : other.end]
