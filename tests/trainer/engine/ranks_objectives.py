"""Steps of every objective on the ranks of a world: the product's engine and objectives, over rows of real records."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from engine.ranks_engine import join
from finetune_trainer.assemble import adapt, load_base, load_engine
from finetune_trainer.data import DataSettings, EvalSet, TrainStream, build_index, list_sources
from finetune_trainer.engine.step import train_step
from finetune_trainer.model.head import KeptPositions
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.objectives import Setting, objective_of
from finetune_trainer.spec import load_job

STEPS = 3


def steps(payload: dict[str, Any]) -> dict[str, Any]:
    """For each manifest in `payload["jobs"]` the loss, gradient norm and metrics of its first steps."""
    control = join()
    return {name: _steps(Path(path), control) for name, path in payload["jobs"].items()}


def _steps(path: Path, control: Any) -> list[Any]:
    job, device = load_job(path), torch.device("cpu")
    folder = Path(job.spec.model.uri.removeprefix("file://"))
    tokenizer = load_tokenizer(folder)
    index = build_index(list_sources(job.spec.data.train, "spec.data.train"))
    micro = job.spec.training.micro_batch_size or 1
    stream = TrainStream(index, DataSettings.of(job.spec, micro), tokenizer, control.rank, control.world_size)
    base = partial(load_base, job, control, folder, tokenizer, device)
    model, _ = adapt(job, base(), (), None)
    engine, forward, _ = load_engine(job, control, model, KeptPositions(model), tokenizer, device)
    settings = DataSettings.of(job.spec, micro)
    once = EvalSet("train", index, settings, tokenizer, control.rank, control.world_size)
    start = {"job": str(path)}
    objective = objective_of(Setting(job, forward, control, base, start, stream.first_rows(), lambda: [once]))
    objective.begin(engine, True, lambda: None)
    found = []
    for batch in islice(stream.batches(), STEPS):
        result = train_step(
            engine,
            objective,
            batch.micro_batches,
            global_batch=batch.all_rows,
            learning_rate=job.spec.training.learning_rate,
            max_grad_norm=1.0,
            control=control,
        )
        found.append([result.loss, result.grad_norm, result.metrics])
    engine.destroy()
    return found
