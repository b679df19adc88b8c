from __future__ import annotations

import gzip
import io

import pytest
import zstandard

from finetune_trainer.data import containers
from finetune_trainer.data.containers import Container, decoded_blocks, detect_container, reading, split_lines
from finetune_trainer.errors import DataError

CONTENT = b"".join(b"line %d\n" % i for i in range(200_000))


def decoded(data: bytes, container: Container) -> bytes:
    with reading("file:///x"):
        return b"".join(decoded_blocks(io.BufferedReader(io.BytesIO(data)), container))


@pytest.mark.parametrize(
    ("data", "container"),
    [
        (CONTENT, Container.JSONL),
        (gzip.compress(CONTENT), Container.GZIP),
        (gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:]), Container.GZIP),
        (gzip.compress(CONTENT) + bytes(512), Container.GZIP),
        (zstandard.compress(CONTENT), Container.ZSTD),
        (zstandard.compress(CONTENT[:1000]) + zstandard.compress(CONTENT[1000:]), Container.ZSTD),
        (b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + zstandard.compress(CONTENT), Container.ZSTD),
        (zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT), Container.ZSTD),
    ],
    ids=["plain", "gzip", "two members", "padded", "zstd", "two frames", "skippable frame", "no size"],
)
def test_content_is_read_whatever_it_is_wrapped_in(data: bytes, container: Container) -> None:
    assert detect_container("file:///x", data[:16]) is container
    assert decoded(data, container) == CONTENT


@pytest.mark.parametrize("cut", [1, 7, 100, 5000])
@pytest.mark.parametrize("container", [Container.GZIP, Container.ZSTD])
def test_truncated_compression_is_refused(container: Container, cut: int) -> None:
    data = gzip.compress(CONTENT) if container is Container.GZIP else zstandard.compress(CONTENT)
    with pytest.raises(DataError, match=r"file:///x cannot be read: .*truncated"):
        decoded(data[:-cut], container)


@pytest.mark.parametrize("container", [Container.GZIP, Container.ZSTD])
def test_damaged_compression_is_refused(container: Container) -> None:
    if container is Container.GZIP:
        data = bytearray(gzip.compress(CONTENT))
    else:
        data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(DataError, match="file:///x cannot be read"):
        decoded(bytes(data), container)


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl.gz", b'{"text": "x"}', "a.jsonl.gz is not gzip as its name says, but plain text"),
        ("a.parquet", b"\x1f\x8b\x08\x00", "a.parquet is not Parquet as its name says, but gzip"),
        ("a.jsonl", b"PAR1\x15\x04", "a.jsonl is not plain text as its name says, but Parquet"),
        ("a.zst", b"\x28\xb5\x2f", "a.zst is not zstd"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(name: str, head: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        detect_container(name, head)


def test_a_name_without_a_known_suffix_promises_nothing() -> None:
    assert detect_container("part-00000", b"PAR1") is Container.PARQUET
    assert detect_container("part-00000", b"{}") is Container.JSONL


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_are_the_same_however_the_content_is_cut(size: int) -> None:
    content = b"one\n\ntwo\r\n three \n\nlast"
    blocks = [content[i : i + size] for i in range(0, len(content), size)]
    assert list(split_lines(blocks, "x")) == [b"one", b"", b"two\r", b" three ", b"", b"last"]


def test_a_newline_at_the_end_begins_no_line() -> None:
    assert list(split_lines([b"one\n", b"two\n"], "x")) == [b"one", b"two"]


def test_a_line_above_the_limit_is_refused_before_it_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_RECORD_BYTES", 1 << 20)
    taken = []

    def endless() -> object:
        while True:
            taken.append(1)
            yield b"x" * 65536

    with pytest.raises(DataError, match=r"file:///x has a line of more than 1 MiB.*jq -c"):
        list(split_lines(endless(), "file:///x"))  # type: ignore[arg-type]
    assert len(taken) <= 17
