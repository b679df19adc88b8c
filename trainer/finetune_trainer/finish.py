"""The end of a run: choose the checkpoint to export, write it in the format asked for, publish it, sum the run up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from finetune_trainer.audit import whole_counts
from finetune_trainer.data import Counters
from finetune_trainer.errors import Stopped
from finetune_trainer.evaluation.report import as_metrics, in_brief
from finetune_trainer.export.card import LOSS_PLOT, model_card
from finetune_trainer.export.disk import files_below, fresh, writing
from finetune_trainer.export.lineage import lineage, of_adapter
from finetune_trainer.export.plot import loss_plot
from finetune_trainer.export.publish import Exported, Manifest, check_vacant, claim, find_manifest, seal, upload
from finetune_trainer.export.result import summarise
from finetune_trainer.export.tokens import export_tokenizer
from finetune_trainer.export.weights import export_weights
from finetune_trainer.reporting import REPORT as PAGE
from finetune_trainer.reporting import last_page, refresh
from finetune_trainer.restore import load, set_aside, verify
from finetune_trainer.run import Run
from finetune_trainer.spec import LANGUAGE, OBJECTIVES, identity, run_id
from finetune_trainer.starting_point import record
from finetune_trainer.store import Checkpoint, CorruptObject, Fenced, ObjectNotFound, ObjectRef, ObjectStore, open_store

EVALUATION = "evaluation.json"
REPORT = {
    "html": PAGE,
    "audit": "audit.json",
    "evaluation": EVALUATION,
    "metrics": "metrics.jsonl",
    "tensorboard": "tensorboard",
}


def finish(run: Run) -> dict[str, Any]:
    """Export a finished run and return its result, the same JSON-able dictionary on every rank; collective.

    The result holds what `export.result.summarise` and `evaluation.report.in_brief` say, and where the rest lies:
    `report.evaluation` names `evaluation.json`, which `evaluation.report` documents.

    An export that is complete is left as it is and its result returned; one that was cut short is completed. Raises
    StorageError when it cannot be written, OutputTaken when something else lies at `spec.output.uri`, Stopped between
    two files when a stop was asked for.
    """
    store = open_store(run.job.spec.output.uri)
    entry = choose(run)
    export = _identify(run, entry)
    done = run.control.agree(lambda: _look(store, export) if run.control.is_main else None)[0]
    if done is not None:
        return dict(done.result)
    leave_if_asked(run)
    entry = take_up(run, entry)
    found = compare(run, entry)
    run.report_phase("exporting", f"step {entry.step} to {store.uri}")
    folder = run.context.workdir / "export" / run.writer.id  # a rank of an older start may still write into its own
    result = write_files(run, entry, folder, found)
    publish(run, store, _identify(run, entry), folder, result)
    refresh(run, result, found)
    return result


def choose(run: Run) -> Checkpoint:
    """The checkpoint to export: the best by held-out loss where the manifest keeps it, else the run's last one."""
    keeps_best = bool(run.dataset.held_out) and run.job.spec.checkpoint.keep_best > 0
    best = run.control.agree(lambda: run.log.best() if keeps_best and run.control.is_main else None)[0]
    assert run.parent is not None  # a finished run has committed
    return best if best is not None else run.log.journal.checkpoint(run.parent)


def take_up(run: Run, entry: Checkpoint) -> Checkpoint:
    """Put a checkpoint's weights into the engine, which holds the last one's; what the run says of itself stays.

    Every object is verified first. A damaged checkpoint is quarantined and the next best taken: the one returned.
    """
    while entry.seq != run.parent and (problems := verify(run, entry)):
        set_aside(run, entry, problems)
        entry = choose(run)
    if entry.seq != run.parent:
        progress, parent, records = run.progress, run.parent, list(run.history.records)
        if problems := load(run, entry):  # it was whole a moment ago, and the engine is neither state now
            raise CorruptObject("; ".join(problems))
        run.progress, run.parent = progress, parent
        run.history.replace(records)
    return entry


def compare(run: Run, entry: Checkpoint) -> dict[str, Any]:
    """What the checkpoint's weights, which the engine holds, are worth (`evaluation.report`); collective."""
    pulse = run.pulse("evaluating the model after training", "batches")

    def between() -> None:
        leave_if_asked(run)
        pulse()

    if run.comparison.by_objective:
        run.begin_objective(between, fresh=False)
    found = run.comparison.after(between, run.history.records, entry.step)
    run.trackers.put({"step": run.progress.step, **as_metrics(found)})
    if found["verdict"] is not None:
        run.report({"kind": "verdict", "verdict": found["verdict"]["outcome"], "text": found["verdict"]["text"]})
    return found


def write_files(run: Run, entry: Checkpoint, folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Make the whole export in a local folder of rank 0 and return the run's result; collective."""
    run.control.agree(lambda: fresh(folder) if run.control.is_main else None)
    checks = export_weights(run.job.spec, run.engine.module, run.model_path, folder, run.control)
    results = run.control.agree(
        lambda: _write_beside(run, entry, folder, checks, found) if run.control.is_main else None
    )
    assert results[0] is not None
    return results[0]


def publish(run: Run, store: ObjectStore, export: Exported, folder: Path, result: dict[str, Any]) -> None:
    """Store the files and then the manifest that names them; collective, so that a failure reaches every rank."""
    names = run.control.broadcast(files_below(folder) if run.control.is_main else [])
    refs: list[ObjectRef] = []

    def step(number: int) -> None:
        if number == 0:
            claim(store, export, names)
        if number < len(names):
            refs.append(upload(store, folder / names[number], names[number]))
            return
        _hold(run)
        seal(store, Manifest(export=export, files=tuple(refs), result=result))
        shutil.rmtree(folder.parent)

    for number in range(len(names) + 1):
        leave_if_asked(run)
        progress = {"name": "publishing", "done": number, "total": len(names), "unit": "files"}
        run.report({"kind": "phase", "detail": store.uri, **progress})
        run.control.agree(lambda number=number: step(number) if run.control.is_main else None)  # type: ignore[misc]


def leave_if_asked(run: Run) -> None:
    """Raise Stopped once any rank was asked to stop; the finished run was committed before. Collective."""
    reason = run.asked_to_stop()
    if reason is not None:
        raise Stopped(
            f"stopped during the export as asked ({reason}): training is done and committed, run the job again to "
            "complete the export"
        )


def _look(store: ObjectStore, export: Exported) -> Manifest | None:
    """Rank 0, before anything is made: what is at the output's place must be nothing, or this run's."""
    check_vacant(store, export.run_id, export.identity)
    return find_manifest(store, export)


def _identify(run: Run, entry: Checkpoint) -> Exported:
    return Exported(
        run_id=run_id(run.job),
        identity=identity(run.job),
        step=entry.step,
        seq=entry.seq,
        writer=entry.writer,
        format=run.job.spec.output.format,
    )


def _hold(run: Run) -> None:
    """A fenced attempt must not complete an export that its successor may be writing."""
    history = run.log.history()
    if history.writer != run.writer.id:
        raise Fenced(
            f"{run.log.uri} was claimed by attempt {history.attempt} after this one, which stops before its export"
        )


def _write_beside(
    run: Run, entry: Checkpoint, folder: Path, checks: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Rank 0: everything but the weights."""
    result = _result(run, entry, found)
    origin = lineage(run.job, run.model_path, run.dataset.id, entry, run.log.uri, run.audit["versions"])
    origin |= record(run.start) | of_adapter(run.job, run.adapter)
    plot = loss_plot(run.history.records)
    progress = run.progress
    counts = whole_counts(progress.data.counters if progress.data is not None else Counters(), progress.eval_counts)
    looked_at = {"contamination": found["contamination"]}
    audit = {**run.audit, **looked_at, **counts, **checks, "lineage": origin, "result": result}
    formats = run.dataset.index.rendered_formats
    document = last_page(run, result, found)
    run.history.close()  # flushes its files
    with writing(folder):
        scores = OBJECTIVES[run.job.spec.objective.type].scores
        export_tokenizer(run.tokenizer, formats, run.model_path, folder, scores=scores)
        _write(folder / REPORT["audit"], _json(audit))
        _write(folder / EVALUATION, _json(found))
        if document is not None:
            _write(folder / PAGE, document)
        _write(folder / "README.md", model_card(run.job, result, origin, plotted=plot is not None, found=found))
        if plot is not None:
            _write(folder / LOSS_PLOT, plot)
        assert run.history.folder is not None
        shutil.copytree(run.history.folder, folder, dirs_exist_ok=True)
    return result


def _result(run: Run, entry: Checkpoint, found: dict[str, Any]) -> dict[str, Any]:
    output, language = run.job.spec.output.uri, run.job.spec.objective.type in LANGUAGE
    return (
        summarise(run.progress, run.history.records, entry.step, found["note"], language=language)
        | in_brief(found)
        | {
            "trainableShare": run.audit["trainableShare"],
            "quarantined": _quarantined(run),
            "output": output,
            "checkpoints": run.log.uri,
            "report": {name: f"{output}/{file}" for name, file in REPORT.items()},
        }
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _quarantined(run: Run) -> int:
    """Records that could not be used, over all starts of the run."""
    try:
        lines = run.log.journal.store.get(f"{run.log.journal.run_id}/quarantine.jsonl")
    except ObjectNotFound:
        return 0
    return lines.count(b"\n")
