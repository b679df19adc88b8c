"""A run's report: gathered on rank 0 where the run is, made and stored beside training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from finetune_trainer.engine.collectives import Tell
from finetune_trainer.export.lineage import public_manifest
from finetune_trainer.report.course import Course
from finetune_trainer.report.data import Report, evaluations_of, steps_of
from finetune_trainer.report.findings import parts
from finetune_trainer.run import Run

REPORT = "report.html"
AUDIT = "audit.json"


def store_audit(run: Run) -> None:
    """Put the audit of this start beside the run's checkpoints; returns when it is there. Collective.

    StorageError on rank 0, PeerFailed on others, when the store does not take it: no step shall come before it.
    """

    def put(_: Tell) -> None:
        if run.control.is_main:
            content = json.dumps(run.audit, indent=2, ensure_ascii=False).encode()
            run.log.journal.store.put(f"{run.log.journal.run_id}/{AUDIT}", content)

    run.control.agree_long(put, run.context)


def refresh(run: Run, result: dict[str, Any] | None = None, found: dict[str, Any] | None = None) -> None:
    """Have the report written as the run stands now, to its folder of checkpoints; returns at once. Rank 0.

    `result`: what a finished run returns; `found`: what its evaluation came to (`evaluation.json`).
    """
    if run.control.is_main:
        gather, journal = gathering(run, result, found), run.log.journal

        def write() -> None:
            journal.store.put(f"{journal.run_id}/{REPORT}", page(gather()).encode())

        run.reports.ask(write)


def last_page(run: Run, result: dict[str, Any], found: dict[str, Any] | None = None) -> str | None:
    """The document of the finished run; None, and said so, where it cannot be made: the export goes on without it."""
    try:
        return page(gathering(run, result, found)())
    except Exception as error:  # a seam: no report is worth a model
        run.report_phase("writing the report", f"{type(error).__name__}: {error}; the export has none")
        return None


def page(data: Report) -> str:
    """The document; the libraries that make it are loaded now."""
    from finetune_trainer.report.page import report

    return report(data)


def gathering(
    run: Run, result: dict[str, Any] | None = None, found: dict[str, Any] | None = None
) -> Callable[[], Report]:
    """Take what training changes as it is now; the function that is returned makes a report of it in any thread."""
    journal = run.log.journal
    course = Course(journal.store.uri, journal.run_id) if run.course is None else run.course
    run.course = course
    records, audit, progress = list(run.history.records), run.audit, run.progress
    total, written, job = run.total_steps(), time.time(), public_manifest(run.job)

    evaluated = parts({"contamination": audit.get("contamination")} | (found or {}))

    def gather() -> Report:
        return Report(
            name=run.job.metadata.name,
            run_id=journal.run_id,
            state="Running" if result is None else "Finished",
            written=written,
            job=job,
            versions={name: str(version) for name, version in audit["versions"].items()},
            steps=steps_of(records),
            evaluations=evaluations_of(records),
            events=course.events(),
            total_steps=total,
            percent=100.0 * progress.consumed,
            audit=audit,
            result=result or {},
            **evaluated | {"warnings": (*audit.get("warnings", ()), *evaluated["warnings"])},
        )

    return gather
