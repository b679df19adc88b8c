"""CRC64NVME, the checksum that S3 keeps with every object: 64 bits at memory speed, combinable over parts."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Protocol

from awscrt import checksums

from finetune_trainer.store.objects import byte_view

if TYPE_CHECKING:
    from typing_extensions import Buffer


def crc64nvme(data: Buffer, previous: int = 0) -> int:
    """CRC64NVME of `data`, continued from the value `previous` of the bytes before it (0: none).

    Check value: crc64nvme(b"123456789") == 0xAE8B14860A799888 (NVM Express base specification, 64b CRC).
    """
    return int(checksums.crc64nvme(byte_view(data), previous))


def combined(first: int, second: int, size: int) -> int:
    """The CRC64NVME of bytes whose first part has the checksum `first`, and whose last `size` bytes have `second`."""
    return int(checksums.combine_crc64nvme(first, second, size))


def crc64_hex(value: int) -> str:
    """The checksum as 16 hexadecimal digits, as log entries write it."""
    return f"{value:016x}"


def crc64_header(value: int) -> str:
    """The checksum as S3's `x-amz-checksum-crc64nvme` header: base64 of 8 big-endian bytes."""
    return base64.b64encode(value.to_bytes(8, "big")).decode("ascii")


def crc64_value(header: str) -> int:
    """The checksum that such a header holds."""
    return int.from_bytes(base64.b64decode(header), "big")


# What a processor's cache holds: bytes that have just been read are checked before they go to memory.
PIECE_BYTES = 2**20


class Stream(Protocol):
    """The part of a raw or buffered file that is used here."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` from the start; 0 only at the end."""
        ...


def read_fully(stream: Stream, view: memoryview) -> tuple[int, int]:
    """Fill `view` from a stream: how many bytes came, fewer than it holds only at the end, and their CRC64NVME."""
    size = checksum = 0
    while size < view.nbytes and (count := stream.readinto(view[size : size + PIECE_BYTES])):
        checksum = crc64nvme(view[size : size + count], checksum)
        size += count
    return size, checksum
