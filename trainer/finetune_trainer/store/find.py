"""Finds runs and checkpoints by what users have at hand: an address, and `latest`, `best`, `step:N` or a seq."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_trainer.store.entries import Checkpoint
from finetune_trainer.store.log import RunLog
from finetune_trainer.store.objects import ObjectStore
from finetune_trainer.store.uri import open_store


def runs_at(uri: str) -> list[RunLog]:
    """The run whose folder `uri` is, else every run below it, as below a `checkpoint.uri`; lists every key there."""
    above, _, name = uri.rstrip("/").rpartition("/")
    if not above.endswith(":/") and (log := RunLog(open_store(above), name)).history().newest:
        return [log]
    store = open_store(uri)
    return [RunLog(store, run_id) for run_id in list_runs(store)]


def list_runs(store: ObjectStore) -> list[str]:
    """The ids of the runs below a `checkpoint.uri`; lists every key there."""
    parts = (info.key.split("/", 2) for info in store.list())
    return sorted({part[0] for part in parts if part[1:2] == ["log"]})


def find_checkpoint(log: RunLog, which: str, among: Iterable[int]) -> Checkpoint | None:
    """The checkpoint that `which` names, of those with the seqs `among`; None where it names none.

    `latest` and `best` are of those that may be loaded. Of several with one step it is the newest.
    """
    history, kept = log.history(), sorted(among, reverse=True)
    if which == "latest":
        found = history.good[-1] if history.good else None
    elif which == "best":
        best = log.best()
        found = None if best is None else best.seq
    elif which.startswith("step:"):
        found = next((seq for seq in kept if f"step:{log.journal.checkpoint(seq).step}" == which), None)
    else:
        found = int(which) if which.isdecimal() else None
    return log.journal.checkpoint(found) if found is not None and found in kept else None


def listed(log: RunLog, seqs: Iterable[int]) -> str:
    """These checkpoints in words: `3 (step 200), 4 (step 400)`."""
    return ", ".join(f"{seq} (step {log.journal.checkpoint(seq).step})" for seq in seqs) or "none"
