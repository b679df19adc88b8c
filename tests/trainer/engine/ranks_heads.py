"""What each rank does in test_head_numerics.py: steps of objectives with a score head, on the product's engine."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from finetune_trainer.data import deal
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.config import deepspeed_config
from finetune_trainer.engine.loss import Objective
from finetune_trainer.engine.start import init_communication, start_engine
from finetune_trainer.engine.step import train_step
from finetune_trainer.model.isolation import prove_isolation
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.model.score import ScorePositions
from finetune_trainer.objectives.classification import KINDS
from finetune_trainer.objectives.reward import BradleyTerry
from finetune_trainer.spec import LoRA, ProblemType
from head_reference import CENTER, HEADS, PAD, REWARD, labels_of, scored_steps
from reference import LEARNING_RATE, job

DEVICE = torch.device("cpu")


def train(payload: dict[str, Any]) -> dict[str, Any]:
    """For each of `payload["cases"]` ([kind, method, ZeRO stage]): losses and gradient norms of its steps."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    init_communication(DEVICE)
    control = ControlGroup.create(60)
    return {"cases": [_train(control, payload, *case) for case in payload["cases"]]}


def _train(control: ControlGroup, payload: dict[str, Any], kind: str, method: str, stage: int) -> dict[str, Any]:
    spec = job(stage, method)
    torch.manual_seed(control.rank)  # a head that depended on it would differ between ranks
    config = deepspeed_config(spec, control.world_size, on_gpu=False)
    model: Any = load_model(
        Path(payload["model"]),
        dtype=torch.float32,
        zero_stage=stage,
        ds_config=config,
        gradient_checkpointing=True,
        head=HEADS[kind],
    )
    if method == "LoRA":
        model, _ = apply_lora(model, LoRA(rank=4, alpha=8), seed=0)
    head = ScorePositions(model)
    engine = start_engine(spec, model, control.world_size, DEVICE)
    isolation = prove_isolation(engine.module, DEVICE, head)
    objective = objective_of(kind, Forward(head, DEVICE, PAD))
    found: dict[str, Any] = {"losses": [], "norms": [], "accuracy": [], "isolated": isolation.isolated}
    for rows in scored_steps(kind, **payload["rows"]):
        dealt = deal([len(row) for row in rows], control.rank, control.world_size, 1)
        result = train_step(
            engine,
            objective,
            [[rows[number] for number in numbers] for numbers in dealt],
            global_batch=rows,
            learning_rate=LEARNING_RATE,
            max_grad_norm=1.0,
            control=control,
        )
        found["losses"].append(result.loss)
        found["norms"].append(result.grad_norm)
        found["accuracy"].append(result.metrics.get("accuracy"))
    engine.destroy()
    return found


def objective_of(kind: str, forward: Forward) -> Objective:
    """The product's objective of that kind."""
    if kind == REWARD:
        return BradleyTerry(forward, CENTER)
    return KINDS[ProblemType(kind)](forward, labels_of(kind))
