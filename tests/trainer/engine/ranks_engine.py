"""What each rank does in the engine tests: the product's engine on a tiny model, over random rows."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.config import deepspeed_config, micro_batch_size, micro_batches_per_step
from finetune_trainer.engine.snapshot import EngineState, load_rank, merge, save_rank
from finetune_trainer.engine.start import init_communication, start_engine
from finetune_trainer.engine.step import train_step
from finetune_trainer.model.head import KeptPositions
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.spec import FineTuneJob, GradientCheckpointing, MethodType, Precision
from reference import LEARNING_RATE, job, random_steps


def build(payload: dict[str, Any], world_size: int) -> tuple[FineTuneJob, Any, Forward]:
    manifest = job(payload["zero_stage"], payload["method"], payload.get("dropout", 0.0), **payload.get("training", {}))
    device = torch.device("cpu")
    config = deepspeed_config(manifest, world_size, on_gpu=False)
    dtype = torch.bfloat16 if manifest.spec.training.precision == Precision.BF16 else torch.float32
    model: Any = load_model(
        Path(payload["model"]),
        dtype=dtype,
        zero_stage=payload["zero_stage"],
        ds_config=config,
        gradient_checkpointing=manifest.spec.training.gradient_checkpointing == GradientCheckpointing.ON,
    )
    if manifest.spec.method.type == MethodType.LORA:
        assert manifest.spec.method.lora is not None
        model, _ = apply_lora(model, manifest.spec.method.lora, seed=0)
    head = KeptPositions(model)
    engine = start_engine(manifest, model, world_size, device)
    return manifest, engine, Forward(head, device, pad_id=0)


def train(payload: dict[str, Any]) -> dict[str, Any]:
    """Losses and gradient norms per step; state goes to `save` and comes from `load` when the payload names them."""
    torch.manual_seed(int(os.environ["RANK"]))  # dropout
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    init_communication(torch.device("cpu"))
    control = ControlGroup.create(60)
    rank, world_size = control.rank, control.world_size
    manifest, engine, forward = build(payload, world_size)
    if "load" in payload:
        restore(engine, Path(payload["load"]), rank, world_size)
    losses, norms = [], []
    for rows in random_steps(**payload["rows"])[payload.get("first", 0) : payload.get("last")]:
        mine, size = rows[rank::world_size], micro_batch_size(manifest, world_size)
        micro_batches = [mine[i * size : (i + 1) * size] for i in range(micro_batches_per_step(manifest, world_size))]
        result = train_step(
            engine,
            forward,
            micro_batches,
            kept_tokens=sum(int((row.labels[1:] != -100).sum()) for row in rows),
            learning_rate=LEARNING_RATE,
            max_grad_norm=manifest.spec.training.max_grad_norm,
            control=control,
        )
        losses.append(result.loss)
        norms.append(result.grad_norm)
    if "save" in payload:
        save(engine, Path(payload["save"]), control)
    return {"losses": losses, "norms": norms}


def save(engine: Any, folder: Path, control: ControlGroup) -> None:
    folder.mkdir(exist_ok=True)
    _, slices = save_rank(
        engine, control.rank, control.world_size, lambda name, data: (folder / name).write_bytes(data)
    )
    state = merge(engine, control.gather(slices))
    if control.is_main:
        (folder / "state.json").write_text(state.model_dump_json())
    control.barrier()


def restore(engine: Any, folder: Path, rank: int, world_size: int) -> None:
    state = EngineState.model_validate(json.loads((folder / "state.json").read_text()))
    load_rank(engine, state, rank, world_size, lambda name: (folder / name).read_bytes())
