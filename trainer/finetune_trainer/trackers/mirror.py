"""Copies the files of a local folder to the run's folder, where people find them while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from finetune_trainer.store import open_store
from finetune_trainer.trackers.base import About

PAUSE = 30.0
"""Seconds between two copies: a store takes whole files only."""


class Mirror:
    """What lies in `folder`, below `<run's folder>/<name>/`; only what has changed is copied again."""

    def __init__(self, about: About, folder: Path, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._store = open_store(about.store)
        self._prefix = f"{about.prefix}/{name}"
        self._clock = clock
        self._last = clock()
        self._sizes: dict[Path, tuple[int, int]] = {}

    def copy_sometimes(self, flush: Callable[[], object] = lambda: None) -> None:
        """Copy, at most every half minute, after `flush`."""
        if self._clock() - self._last >= PAUSE:
            flush()
            self.copy()

    def copy(self) -> None:
        """Copy what has changed; raises StorageError."""
        self._last = self._clock()
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file() and not path.is_symlink()):
            state = path.stat()
            seen = (state.st_size, state.st_mtime_ns)
            if self._sizes.get(path) != seen:
                self._store.put(f"{self._prefix}/{path.relative_to(self._folder).as_posix()}", path.read_bytes())
                self._sizes[path] = seen
