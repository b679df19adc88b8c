"""The file of records that could not be used: `<checkpoint.uri>/<run id>/quarantine.jsonl`, with reason and excerpt."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict

from finetune_trainer.data import Quarantined
from finetune_trainer.store import ObjectNotFound, ObjectStore

GROWTH = 100  # rewritten once it has grown by a hundredth, so that many bad records cost few writes


class QuarantineFile:
    """Each record once, also over restarts; lies in the tenant's own storage because an excerpt is content.

    The stream finds records in one thread while a commit flushes in another.
    """

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        self._store = store
        self._key = f"{run_id}/quarantine.jsonl"
        self._records = {record["record"]: record for record in self._stored()}
        self._written = len(self._records)
        self._lock = threading.Lock()

    def __call__(self, bad: Quarantined) -> None:
        """Take one record in; on disk at the latest after `flush`."""
        with self._lock:
            self._records.setdefault(bad.record, asdict(bad))
            grown = len(self._records) - self._written > self._written // GROWTH
        if grown:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            if len(self._records) == self._written:
                return
            lines = (json.dumps(record, ensure_ascii=False) for record in self._records.values())
            self._store.put(self._key, "".join(f"{line}\n" for line in lines).encode())
            self._written = len(self._records)

    def _stored(self) -> list[dict[str, str]]:
        try:
            data = self._store.get(self._key)
        except ObjectNotFound:
            return []
        return [json.loads(line) for line in data.splitlines()]  # bytes: text would also split at an excerpt's U+2028
