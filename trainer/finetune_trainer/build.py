"""From a manifest to a run that is ready for its first step: claim, model, data, engine, in the order they can fail."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from finetune_trainer.audit import compose_audit
from finetune_trainer.begin import check_early
from finetune_trainer.context import RunContext
from finetune_trainer.dataset import INDEXING, open_dataset
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup, Tell
from finetune_trainer.engine.config import deepspeed_config, micro_batch_size
from finetune_trainer.engine.start import init_communication, start_engine
from finetune_trainer.errors import DataError, Stopped
from finetune_trainer.export.publish import check_vacant
from finetune_trainer.metrics import History
from finetune_trainer.model.coverage import Coverage
from finetune_trainer.model.fetch import fetch_model
from finetune_trainer.model.fingerprint import ModelIdentity, identify
from finetune_trainer.model.head import KeptPositions, Positions
from finetune_trainer.model.isolation import IsolationReport, prove_isolation
from finetune_trainer.model.load import load_config, load_model
from finetune_trainer.model.lora import apply_lora, full_coverage
from finetune_trainer.model.score import ScoreHead, ScorePositions
from finetune_trainer.model.tokenizer import check_fits, load_tokenizer
from finetune_trainer.objectives import Setting, objective_of
from finetune_trainer.objectives.heads import score_head
from finetune_trainer.preflight import preflight
from finetune_trainer.run import Run, asked_to_stop
from finetune_trainer.shares import Stage
from finetune_trainer.spec import (
    FineTuneJob,
    GradientCheckpointing,
    MethodType,
    Packing,
    Precision,
    identity,
    identity_fields,
    run_id,
)
from finetune_trainer.starting_point import StartingPoint, record, starting_point
from finetune_trainer.store import Identity, RunLog, Writer, open_store

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
    path = control.agree_long(lambda tell: fetch(job, context, tell), context)[control.rank]
    tokenizer = load_tokenizer(path, job.spec.model.chat_template)
    check_fits(tokenizer, load_config(path), job.spec.data.max_length)
    model = agree_on_model(job.spec.model.uri, path, tokenizer, control)
    check_early(job, control, log, start, model)
    micro = micro_batch_size(job, control.world_size)
    _enter(control, context, INDEXING)
    resources = ExitStack()
    dataset = open_dataset(job, context, control, log, tokenizer, model.tokenizer, micro)
    _enter(control, context, "loading the model", str(path))
    head = score_head(job, dataset.labels, tokenizer)
    engine, forward, coverage, isolation = load_engine(job, control, path, tokenizer, device, head)
    begins = {"weights": model.weights, "tokenizer": model.tokenizer, **record(start)}
    first_rows = dataset.stream.first_rows()
    stage = Stage(
        context.staging / f"{writer.id}-{context.rank}" if context.staging is not None else None,
        context.rank,
        context.world_size,
        context.local_world_size,
    )
    history = History(fresh_folder(context.workdir / "history", writer.id) if control.is_main else None)
    resources.callback(history.close)
    run = Run(
        job=job,
        context=context,
        control=control,
        log=log,
        writer=writer,
        model_path=path,
        model=model,
        start=start,
        tokenizer=tokenizer,
        dataset=dataset,
        engine=engine,
        forward=forward,
        objective=objective_of(Setting(job, forward, control, path, begins, first_rows, dataset.once, dataset.labels)),
        micro_batch_size=micro,
        history=history,
        audit=compose_audit(dataset, coverage, isolation, versions()),
        saving_group=ControlGroup.create(SAVE_SECONDS),
        stage=stage,
        resources=resources,
        clock=clock,
    )
    run.report({"kind": "audit", **run.audit})
    return run


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

    return fetch_model(uri, context.workdir.parent / "models", progress=progress)


def agree_on_model(uri: str, path: Path, tokenizer: PreTrainedTokenizerFast, control: ControlGroup) -> ModelIdentity:
    """What every rank has in its folder `path`; collective. Raises DataError when it is not the same."""
    found = control.agree(lambda: identify(path, tokenizer))
    for rank, one in enumerate(found):
        if (one.weights, one.tokenizer) != (found[0].weights, found[0].tokenizer):
            raise DataError(
                f"spec.model.uri: rank {rank} has other files of {uri} than rank 0: make the folder the same on every "
                "node; an hf:// address with a commit, hf://org/name@commit, is the same everywhere"
            )
    return found[0]


def load_engine(
    job: FineTuneJob,
    control: ControlGroup,
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    device: torch.device,
    score: ScoreHead | None = None,
) -> tuple[Any, Forward, Coverage, IsolationReport | None]:
    """The model on its device, adapted, proved to keep packed documents apart, and wrapped by DeepSpeed; collective.

    With `score` it is a sequence classifier with that head.
    """
    spec = job.spec
    on_gpu = device.type == "cuda"
    model: Any = load_model(
        path,
        dtype=torch.bfloat16 if spec.training.precision == Precision.BF16 else torch.float32,
        zero_stage=spec.deepspeed.zero_stage,
        ds_config=deepspeed_config(job, control.world_size, on_gpu=on_gpu),
        gradient_checkpointing=use_gradient_checkpointing(spec.training.gradient_checkpointing, on_gpu=on_gpu),
        uri=spec.model.uri,
        head=score,
    )
    if spec.method.type == MethodType.LORA and spec.method.lora is not None:
        model, coverage = apply_lora(model, spec.method.lora, seed=spec.training.seed)
    else:
        coverage = full_coverage(model)
    head: Positions = KeptPositions(model) if score is None else ScorePositions(model)
    soft_capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None) is not None
    engine = start_engine(job, model, control.world_size, device)
    isolation = prove_isolation(engine.module, device, head) if spec.data.packing == Packing.BEST_FIT else None
    assert isinstance(tokenizer.pad_token_id, int)
    forward = Forward(
        head, device, tokenizer.pad_token_id, reuse_logits=not soft_capped, alone=spec.data.packing is Packing.NONE
    )
    return engine, forward, coverage, isolation


def fresh_folder(parent: Path, name: str) -> Path:
    """A folder of this start's own: a rank of an older start may still be writing into its."""
    shutil.rmtree(parent, ignore_errors=True)
    folder = parent / name
    folder.mkdir(parents=True)
    return folder


def use_gradient_checkpointing(chosen: GradientCheckpointing, *, on_gpu: bool) -> bool:
    """`Auto` is on where memory is scarce, on a GPU, and off on a CPU, where recomputing only costs time."""
    return on_gpu if chosen == GradientCheckpointing.AUTO else chosen == GradientCheckpointing.ON


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
