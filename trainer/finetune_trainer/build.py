"""From a manifest to a run that is ready for its first step: claim, model, data, engine, in the order they can fail."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from finetune_trainer.assemble import assemble, compute_dtype, load_base
from finetune_trainer.audit import compose_audit, look_first
from finetune_trainer.begin import check_early, check_labels
from finetune_trainer.context import RunContext
from finetune_trainer.dataset import INDEXING, open_dataset
from finetune_trainer.engine.collectives import ControlGroup, Tell
from finetune_trainer.engine.config import micro_batch_size, with_micro_batch
from finetune_trainer.engine.start import init_communication
from finetune_trainer.errors import DataError, Stopped
from finetune_trainer.estimate import UnknownArchitecture
from finetune_trainer.export.lineage import public_manifest
from finetune_trainer.export.merge_start import merge_start
from finetune_trainer.export.publish import check_vacant
from finetune_trainer.initial_adapter import take_out_initial
from finetune_trainer.metrics import History
from finetune_trainer.model.adapter_folder import fetch_adapter, weights_digest
from finetune_trainer.model.fetch import fetch_model
from finetune_trainer.model.fingerprint import ModelIdentity, identify
from finetune_trainer.model.load import load_config
from finetune_trainer.model.sizes import shape_of_model
from finetune_trainer.model.tokenizer import check_fits, load_tokenizer
from finetune_trainer.objectives import Setting, objective_of
from finetune_trainer.preflight import preflight
from finetune_trainer.run import Run, asked_to_stop
from finetune_trainer.shares import Stage
from finetune_trainer.spec import (
    AdapterUse,
    FineTuneJob,
    identity,
    identity_fields,
    run_id,
)
from finetune_trainer.starting_point import StartingPoint, record, starting_point
from finetune_trainer.store import Identity, RunLog, Writer, open_store
from finetune_trainer.trackers.base import About
from finetune_trainer.trackers.feed import Feeds, open_feeds

FETCHING = "fetching the model"
SAVE_SECONDS = 24 * 3600.0
"""Longest that ranks wait for each other's writing, beside training; a rank that dies is noticed at once."""
PACKAGES = ("finetune-operator", "torch", "deepspeed", "transformers", "peft")


def build(job: FineTuneJob, context: RunContext, clock: Callable[[], float] = time.monotonic) -> Run:
    """Everything that training needs, on this rank; collective. Raises the FinetuneError of whatever cannot work.

    Stopped, between two phases, when a stop was asked for. `clock` decides on commits by time.
    """
    device = torch.device(context.device)
    init_communication(device)
    control = ControlGroup.create(job.spec.no_progress_deadline_seconds)
    torch.manual_seed(job.spec.training.seed + context.rank)  # dropout; weights come from files or their own seeds
    log = RunLog(open_store(job.spec.checkpoint.uri), run_id(job))
    writer, start = claim(job, context, control, log)
    _enter(control, context, FETCHING, job.spec.model.uri)
    path, adapter = control.agree_long(lambda tell: fetch_start(job, context, tell), context)[control.rank]
    added = job.spec.model.added_tokens
    tokenizer = load_tokenizer(path, job.spec.model.chat_template, added)
    check_fits(tokenizer, load_config(path), job.spec.data.max_length, len(added))
    model = agree_on_model(job.spec.model.uri, path, tokenizer, control, added)
    check_early(job, control, log, start, model)
    job = settle_micro_batch(job, control, path, device)
    micro = micro_batch_size(job, control.world_size)
    _enter(control, context, INDEXING)
    resources = ExitStack()
    dataset = open_dataset(job, context, control, log, tokenizer, model.tokenizer, micro)
    check_labels(control, log, start, dataset.labels)
    _enter(control, context, "loading the model", str(path))
    settle_start = partial(take_out_initial, job, context, control, log, start, device)
    trained = assemble(job, control, path, adapter, tokenizer, device, dataset.labels, settle_start)
    begins = {"weights": model.weights, "tokenizer": model.tokenizer, **record(start), **adapter_facts(adapter)}
    rows, once, labels = dataset.stream.first_rows(), dataset.once, dataset.labels
    base = partial(load_base, job, control, path, tokenizer, device)
    objective = objective_of(Setting(job, trained.forward, control, base, begins, rows, once, labels))
    audit = compose_audit(dataset, trained.coverage, trained.isolation, versions())
    audit |= look_first(job, dataset, tokenizer, trained.engine, trained.forward)
    history = open_history(control, context, writer, resources)
    run = Run(
        job=job,
        context=context,
        control=control,
        log=log,
        writer=writer,
        model_path=path,
        model=model,
        start=start,
        adapter=adapter,
        tokenizer=tokenizer,
        dataset=dataset,
        engine=trained.engine,
        forward=trained.forward,
        objective=objective,
        micro_batch_size=micro,
        history=history,
        audit=audit,
        saving_group=ControlGroup.create(SAVE_SECONDS),
        stage=own_stage(context, writer),
        resources=resources,
        clock=clock,
    )
    run.trackers = open_trackers(run)
    run.report({"kind": "audit", **run.audit})
    return run


def open_history(control: ControlGroup, context: RunContext, writer: Writer, resources: ExitStack) -> History:
    """What the run records of its steps, closed with `resources`; in files on rank 0 alone."""
    history = History(fresh_folder(context.workdir / "history", writer.id) if control.is_main else None)
    resources.callback(history.close)
    return history


def open_trackers(run: Run) -> Feeds:
    """Start what sends metrics to the trackers that the manifest names; rank 0's."""
    if not run.control.is_main:
        return Feeds()
    about = About(
        run_id=run.log.journal.run_id,
        name=run.job.metadata.name,
        config=public_manifest(run.job),
        folder=run.context.workdir / "trackers",
        store=run.log.journal.store.uri,
        prefix=run.log.journal.run_id,
    )
    return open_feeds(run.job.spec.trackers, about, lambda text: run.report_phase("tracking", text))


def claim(
    job: FineTuneJob, context: RunContext, control: ControlGroup, log: RunLog
) -> tuple[Writer, StartingPoint | None]:
    """Take the run over on rank 0, so that every older writer is fenced, and clear away what crashed saves left.

    The claim that begins a run says with which checkpoint of another run it begins.
    """

    def take() -> tuple[int, str, StartingPoint | None] | None:
        if not control.is_main:
            return None
        if not context.checked:
            preflight(job)
        check_vacant(open_store(job.spec.output.uri), run_id(job), identity(job))
        me = Identity(hash=identity(job), fields=identity_fields(job))
        writer = log.claim(me, context.attempt, versions() | record(starting_point(job, log)))
        writer.sweep()
        return writer.attempt, writer.id, starting_point(job, log)  # of two first starts, the first claim's counts

    claimed = control.agree(take)[0]
    assert claimed is not None
    return log.writer(*claimed[:2]), claimed[2]


def fetch(job: FineTuneJob, context: RunContext, tell: Tell) -> Path:
    """The local folder of the model, read once per node."""
    uri = job.spec.model.uri

    def progress(here: int, total: int) -> None:
        amount = {"done": here, "total": total, "unit": "bytes"}
        tell({"kind": "phase", "name": FETCHING, "detail": uri, **amount})

    return fetch_model(uri, _models(context), progress=progress)


def fetch_start(job: FineTuneJob, context: RunContext, tell: Tell) -> tuple[Path, Path | None]:
    """The folder of the model as training begins with it, and that of the adapter to start from, if any.

    An adapter that is merged first is part of the model then.
    """
    path, start = fetch(job, context, tell), job.spec.model.adapter
    if start is None:
        return path, None
    adapter = fetch_adapter(start.uri, _models(context))
    if start.use is AdapterUse.MERGE:
        path = merge_start(path, adapter, _models(context), compute_dtype(job))
    return path, adapter


def _models(context: RunContext) -> Path:
    return context.workdir.parent / "models"


def agree_on_model(
    uri: str,
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    control: ControlGroup,
    added_tokens: Sequence[str] = (),
) -> ModelIdentity:
    """What every rank has in its folder `path`; collective. Raises DataError when it is not the same."""
    found = control.agree(lambda: identify(path, tokenizer, added_tokens))
    for rank, one in enumerate(found):
        if (one.weights, one.tokenizer) != (found[0].weights, found[0].tokenizer):
            raise DataError(
                f"spec.model.uri: rank {rank} has other files of {uri} than rank 0: make the folder the same on every "
                "node; an hf:// address with a commit, hf://org/name@commit, is the same everywhere"
            )
    return found[0]


def settle_micro_batch(job: FineTuneJob, control: ControlGroup, path: Path, device: torch.device) -> FineTuneJob:
    """The job with a micro-batch that is predicted to fit into the smallest GPU of any rank; collective.

    As it is on a CPU, where the manifest names one, and for models whose shape is unknown.
    """
    free = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    smallest = min(control.gather(free)) if free is not None else None
    try:
        shape = shape_of_model(f"file://{path}")
    except UnknownArchitecture:
        return job
    return with_micro_batch(job, shape, smallest, control.world_size)


def own_stage(context: RunContext, writer: Writer) -> Stage:
    """Where this rank copies what it saves beside training."""
    folder = context.staging / f"{writer.id}-{context.rank}" if context.staging is not None else None
    return Stage(folder, context.rank, context.world_size, context.local_world_size)


def adapter_facts(adapter: Path | None) -> dict[str, str]:
    """What tells the adapter that training starts from, if any, from others."""
    return {} if adapter is None else {"adapter": weights_digest(adapter)}


def fresh_folder(parent: Path, name: str) -> Path:
    """A folder of this start's own: a rank of an older start may still be writing into its."""
    shutil.rmtree(parent, ignore_errors=True)
    folder = parent / name
    folder.mkdir(parents=True)
    return folder


def versions() -> dict[str, Any]:
    """Installed versions of the packages that a result depends on."""
    return {package: version(package) for package in PACKAGES}


def _enter(control: ControlGroup, context: RunContext, name: str, detail: str = "") -> None:
    """Begin a phase, or end the run between two if any rank was asked to; collective."""
    reason = asked_to_stop(control, context.stop)
    if reason is not None:
        raise Stopped(f"stopped before {name} as asked ({reason}): what was committed earlier is kept")
    if context.is_main:
        context.reporter.report({"kind": "phase", "name": name, "detail": detail})
