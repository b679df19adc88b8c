"""Finds the log of a run by what users have at hand: the manifest, or an address of the spec or the status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from finetune_trainer.store import ObjectStore, RunLog

HINT = "WHERE"


def log_of_run(where: str, run: str | None = None) -> RunLog:
    """The log of the run that a manifest or an address names; BadParameter where it names none or several."""
    from finetune_trainer.spec import load_local_job, run_id
    from finetune_trainer.store import RunLog, open_store

    if "://" not in where:
        path = Path(where)
        job = load_local_job(path)
        return _begun(RunLog(open_store(job.spec.checkpoint.uri), run or run_id(job)))
    if run is not None:
        return _begun(RunLog(open_store(where), run))
    parent, _, name = where.rstrip("/").rpartition("/")
    if not parent.endswith(":/") and (log := RunLog(open_store(parent), name)).history().newest:
        return log
    store = open_store(where)
    runs = list_runs(store)
    if len(runs) == 1:
        return RunLog(store, runs[0])
    if runs:
        choice = " or ".join(f"--run {name}" for name in runs)
        raise typer.BadParameter(f"there are several runs below {where}: add {choice}", param_hint=HINT)
    raise _nothing(where)


def _begun(log: RunLog) -> RunLog:
    if not log.history().newest:
        raise _nothing(log.uri)
    return log


def _nothing(where: str) -> typer.BadParameter:
    hint = "write a manifest with its metadata.uid, spec.checkpoint.uri, or the address in status.checkpoint.latest"
    return typer.BadParameter(f"there is no run at {where}: {hint}", param_hint=HINT)


def list_runs(store: ObjectStore) -> list[str]:
    """The ids of the runs below a `checkpoint.uri`; lists every key there."""
    parts = (info.key.split("/", 2) for info in store.list())
    return sorted({part[0] for part in parts if part[1:2] == ["log"]})
