"""Finds the log of a run by what users have at hand: the manifest, or an address of the spec or the status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from finetune_trainer.store import RunLog

HINT = "WHERE"


def log_of_run(where: str, run: str | None = None) -> RunLog:
    """The log of the run that a manifest or an address names; BadParameter where it names none or several."""
    from finetune_trainer.spec import load_local_job, run_id
    from finetune_trainer.store import RunLog, open_store, runs_at

    if "://" not in where:
        path = Path(where)
        job = load_local_job(path)
        return _begun(RunLog(open_store(job.spec.checkpoint.uri), run or run_id(job)))
    if run is not None:
        return _begun(RunLog(open_store(where), run))
    logs = runs_at(where)
    if len(logs) == 1:
        return logs[0]
    if logs:
        choice = " or ".join(f"--run {log.journal.run_id}" for log in logs)
        raise typer.BadParameter(f"there are several runs below {where}: add {choice}", param_hint=HINT)
    raise _nothing(where)


def _begun(log: RunLog) -> RunLog:
    if not log.history().newest:
        raise _nothing(log.uri)
    return log


def _nothing(where: str) -> typer.BadParameter:
    hint = "write a manifest with its metadata.uid, spec.checkpoint.uri, or the address in status.checkpoint.latest"
    return typer.BadParameter(f"there is no run at {where}: {hint}", param_hint=HINT)
