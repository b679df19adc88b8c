"""Low-rank adapters through peft, on exactly the weights that were asked for, initialised alike on any number of ranks.

Adapters have the dtype of the weights beside them: ZeRO-3 gathers one dtype at a time, and the float32 copy that the
optimizer updates is DeepSpeed's, at every stage.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import deepspeed
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import PreTrainedModel

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.model.coverage import Coverage, adapted_weights, coverage
from finetune_trainer.model.keys import SCORE
from finetune_trainer.model.load import full_shape, is_partitioned
from finetune_trainer.model.targets import PATH, Targets, endings, find_targets
from finetune_trainer.spec.method import LoRA


def apply_lora(model: PreTrainedModel, lora: LoRA, seed: int) -> tuple[PeftModel, Coverage]:
    """Freeze `model` and add an adapter to every weight that `lora.target_modules` names.

    `seed` decides the adapters' initial values together with their names: they are the same for every ZeRO stage and
    world size. Call it before `deepspeed.initialize`, on every rank.

    Raises SpecError naming the pattern that matches nothing, or a dropout that fused experts cannot have.
    """
    targets = find_targets(model, lora.target_modules)
    config = _lora_config(model, lora, targets)
    with torch.random.fork_rng():  # peft draws values that are replaced below
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    missed = {*targets.modules, *targets.parameters} ^ adapted_weights(adapted)
    if missed:
        message = f"peft adapts other weights than were asked for, the difference is {', '.join(sorted(missed)[:8])}"
        raise SpecError([Problem(PATH, list(lora.target_modules), message)])
    initialise_adapters(adapted, seed)
    found: PeftModel = adapted
    return found, coverage(adapted)


def full_coverage(model: nn.Module) -> Coverage:
    """The coverage of full fine-tuning, where every parameter is trained."""
    return coverage(model)


@torch.no_grad()
def initialise_adapters(model: nn.Module, seed: int) -> None:
    """Set A to Kaiming-uniform values and B to zero (arXiv 2106.09685, section 4.1; bounds as in peft and nn.Linear).

    Each parameter has a generator of its own, seeded by `seed` and its name, so that no value depends on the order, the
    device or the ranks on which parameters are made.
    """
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            values = _initial_values(name, full_shape(parameter), seed)
            gathered = [parameter] if is_partitioned(parameter) else []
            with deepspeed.zero.GatheredParameters(gathered, modifier_rank=0, enabled=bool(gathered)):
                parameter.copy_(values)


def _initial_values(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    values = torch.zeros(shape)
    if ".lora_A." in name:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        bound = 1 / math.sqrt(shape[-1])
        values.uniform_(-bound, bound, generator=generator)
    return values


def _lora_config(model: PreTrainedModel, lora: LoRA, targets: Targets) -> Any:
    moved = {last for last in {name.rpartition(".")[2] for name in targets.modules} if not _keeps_name(model, last)}
    renamed = {name for name in targets.modules if name.rpartition(".")[2] in moved}
    parameters = [*targets.parameters, *(f"{name}.weight" for name in sorted(renamed))]
    if parameters and lora.dropout:
        message = (
            f"cannot be applied to {parameters[0]}, whose adapter is added to the weight itself: write 0, or name "
            "targetModules without experts"
        )
        raise SpecError([Problem("spec.method.lora.dropout", lora.dropout, message)])
    wanted = set(targets.modules) - renamed
    others = {name for name, _ in model.named_modules()} - wanted
    return LoraConfig(
        task_type="SEQ_CLS" if SCORE in model._modules else "CAUSAL_LM",  # the former trains and saves the score head
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=endings(wanted, others),
        target_parameters=parameters or None,
    )


def _keeps_name(model: PreTrainedModel, last: str) -> bool:
    """Whether peft adapts linear layers called `last` when it is asked to.

    In families whose experts were fused in transformers 5, peft takes `gate_proj` for a part of the experts even where
    it is the shared expert or a dense layer, and would leave that without adapter.
    """
    config = LoraConfig(target_modules=[last])
    try:
        convert_peft_config_for_transformers(config, model=model, conversions=None)
    except ValueError:
        return False
    return set(config.target_modules or ()) == {last}
