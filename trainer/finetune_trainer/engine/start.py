"""From a loaded model to a DeepSpeed engine."""

from __future__ import annotations

from typing import Any

import torch

from finetune_trainer.engine.config import deepspeed_config
from finetune_trainer.engine.fragments import undo_trial_step
from finetune_trainer.engine.optimizer import build_optimizer, parameter_groups
from finetune_trainer.model.libraries import deepspeed
from finetune_trainer.spec import FineTuneJob


def init_communication(device: torch.device) -> None:
    """Let DeepSpeed adopt the process group that the launcher has initialised; no discovery, no launcher of its own."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def start_engine(job: FineTuneJob, model: torch.nn.Module, world_size: int, device: torch.device) -> Any:
    """The engine that trains the parameters of `model` that require gradients; collective."""
    lora = job.spec.method.lora
    ratio = lora.learning_rate_ratio if lora is not None else 1.0
    groups = parameter_groups(model.named_parameters(), job.spec.training.optimizer.weight_decay, ratio)
    engine, _, _, _ = deepspeed.initialize(
        model=model,
        optimizer=build_optimizer(job, groups),
        config=deepspeed_config(job, world_size, on_gpu=device.type == "cuda"),
        dist_init_required=False,
    )
    undo_trial_step(engine)
    return engine
