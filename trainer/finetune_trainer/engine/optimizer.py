"""AdamW over the parameters that train, with weight decay where the field puts it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from finetune_trainer.spec import FineTuneJob, Offload

LEARNING_RATE_RATIO = "learning_rate_ratio"
"""Key of a group whose learning rate is so many times that of the schedule."""


def parameter_groups(
    named: Iterable[tuple[str, torch.nn.Parameter]], weight_decay: float, b_ratio: float = 1.0
) -> list[dict[str, Any]]:
    """Two groups, decayed and not; vectors (norms, biases) are not decayed, as in GPT-3 (arXiv:2005.14165) and nanoGPT.

    With `b_ratio` above 1, the adapters' second matrices are a third one, of that ratio (LoRA+, arXiv:2402.12354).
    Frozen parameters are left out and so is an empty group. A ZeRO-3 parameter is judged by its full shape.
    """
    trainable = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    faster = [parameter for name, parameter in trainable if b_ratio > 1 and ".lora_B." in name]
    others = [(name, parameter) for name, parameter in trainable if b_ratio == 1 or ".lora_B." not in name]
    decayed = [parameter for _, parameter in others if _dimensions(parameter) >= 2]
    plain = [parameter for _, parameter in others if _dimensions(parameter) < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups.append({"params": faster, "weight_decay": weight_decay, LEARNING_RATE_RATIO: b_ratio})
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """The schedule's learning rate at this step, times each group's ratio."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(LEARNING_RATE_RATIO, 1.0)


def _dimensions(parameter: torch.nn.Parameter) -> int:
    return len(getattr(parameter, "ds_shape", parameter.shape))


def build_optimizer(job: FineTuneJob, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer that DeepSpeed wraps: torch's fused AdamW, or DeepSpeed's CPU Adam when states are offloaded."""
    training = job.spec.training
    options: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": tuple(training.optimizer.betas),
        "eps": training.optimizer.eps,
    }
    if job.spec.deepspeed.offload_optimizer == Offload.CPU:
        from deepspeed.ops.adam import DeepSpeedCPUAdam  # compiled; only loaded where it is used

        cpu_adam: torch.optim.Optimizer = DeepSpeedCPUAdam(groups, adamw_mode=True, **options)
        return cpu_adam
    return torch.optim.AdamW(groups, fused=True, **options)
