"""A checkpoint's objects, verified on their way: out of the node's memory where that holds them, else of the store."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from finetune_trainer.engine.blocks import Span
from finetune_trainer.staged import StagedShare
from finetune_trainer.store import Checkpoint, ObjectStore, read_range, read_verified
from finetune_trainer.store.checksums import crc64_hex, crc64nvme


class CheckpointSource:
    """An engine.load.Source over one checkpoint; `memory` is what an earlier start left on this node."""

    def __init__(self, store: ObjectStore, entry: Checkpoint, memory: Sequence[StagedShare] = ()) -> None:
        self._store = store
        self._memory = memory
        self._buffers = threading.local()
        self._refs = {ref.name: ref for ref in entry.objects}

    def whole(self, name: str) -> bytes:
        """See Source."""
        ref = self._refs[name]
        near = self._near(name, 0, ref.size)
        if near is not None and crc64_hex(crc64nvme(near)) == ref.crc64:
            return near
        return read_verified(self._store, ref)

    def part(self, name: str, span: Span) -> memoryview:
        """See Source."""
        held = self._buffer(span.end - span.begin)
        near = self._near(name, span.begin, span.end)
        if near is not None and crc64nvme(near) == span.crc64:
            held[:] = near
        else:
            read_range(self._store, self._refs[name], span.begin, held, span.crc64)
        return held

    def _buffer(self, size: int) -> memoryview:
        """The thread's own, kept: new memory costs as much as what is read into it."""
        held: bytearray | None = getattr(self._buffers, "held", None)
        if held is None or len(held) < size:
            held = self._buffers.held = bytearray(size)
        return memoryview(held)[:size]

    def _near(self, name: str, begin: int, end: int) -> bytes | None:
        found = (share.read(self._refs[name], begin, end) for share in self._memory)
        return next((data for data in found if data is not None), None)
