"""Low-rank adapters through peft, on exactly the weights that were asked for, initialised alike on any number of ranks.

Adapters have the dtype of the weights beside them: ZeRO-3 gathers one dtype at a time, and the float32 copy that the
optimizer updates is DeepSpeed's, at every stage.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import PreTrainedModel

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.model.coverage import Coverage, adapted_layers, coverage
from finetune_trainer.model.keys import SCORE
from finetune_trainer.model.libraries import deepspeed
from finetune_trainer.model.load import full_shape, is_partitioned
from finetune_trainer.model.saved import find_saved, suffixes, token_rows
from finetune_trainer.model.targets import PATH, Targets, choose, endings, find_targets
from finetune_trainer.spec.method import Initialization, LoRA

RankAndAlpha = tuple[int, int]


def apply_lora(model: PreTrainedModel, lora: LoRA, seed: int, tokens: Sequence[int] = ()) -> tuple[PeftModel, Coverage]:
    """Freeze `model` and add an adapter to every weight that `lora.target_modules` names.

    Trained beside the adapters are the modules that `lora.modules_to_save` names, and the embeddings of `tokens`.
    `seed` decides the adapters' initial values together with their names: they are the same for every ZeRO stage and
    world size. Values of another `lora.initialization` are set later, by `model.decompose`. Call it before
    `deepspeed.initialize`, on every rank.

    Raises SpecError naming the pattern that matches nothing, or an option that fused experts cannot have.
    """
    targets = find_targets(model, lora.target_modules)
    ranks = find_ranks(targets, lora)
    config = _lora_config(model, lora, targets, ranks)
    saved = find_saved(model, lora.modules_to_save, {*targets.modules, *targets.parameters})
    config.modules_to_save = suffixes(saved, {name for name, _ in model.named_modules()} - set(saved)) or None
    config.trainable_token_indices = token_rows(model, tokens, saved) or None
    with torch.random.fork_rng():  # peft draws values that are replaced below
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    _check(adapted, ranks, lora)
    initialise_adapters(adapted, seed)
    found: PeftModel = adapted
    return found, coverage(adapted)


def full_coverage(model: nn.Module) -> Coverage:
    """The coverage of full fine-tuning, where every parameter is trained that is not frozen."""
    return coverage(model)


def find_ranks(targets: Targets, lora: LoRA) -> dict[str, RankAndAlpha]:
    """Rank and alpha of each weight that gets an adapter. SpecError for a pattern of `perModule` that names none."""
    names = [*targets.modules, *targets.parameters]
    found = dict.fromkeys(names, (lora.rank, lora.alpha))
    for index, entry in reversed(list(enumerate(lora.per_module))):
        what = "none of the modules that have an adapter"
        for name in choose(names, entry.modules, f"spec.method.lora.perModule[{index}].modules", what):
            found[name] = (entry.rank or lora.rank, entry.alpha or lora.alpha)
    return found


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


def seeded(seed: int, name: str) -> int:
    """The seed of a parameter's own generator."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")


def _initial_values(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    values = torch.zeros(shape)
    if ".lora_A." in name:
        generator = torch.Generator().manual_seed(seeded(seed, name))
        bound = 1 / math.sqrt(shape[-1])
        values.uniform_(-bound, bound, generator=generator)
    return values


def _lora_config(model: PreTrainedModel, lora: LoRA, targets: Targets, ranks: Mapping[str, RankAndAlpha]) -> Any:
    moved = {last for last in {name.rpartition(".")[2] for name in targets.modules} if not _keeps_name(model, last)}
    renamed = {name for name in targets.modules if name.rpartition(".")[2] in moved}
    parameters = [*targets.parameters, *(f"{name}.weight" for name in sorted(renamed))]
    if parameters:
        _check_parameters(parameters[0], lora)
    wanted = set(targets.modules) - renamed
    others = {name for name, _ in model.named_modules()} - wanted
    return LoraConfig(
        task_type="SEQ_CLS" if SCORE in model._modules else "CAUSAL_LM",  # the former trains and saves the score head
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=endings(wanted, others),
        target_parameters=parameters or None,
        rank_pattern=_patterns({name: rank for name, (rank, _) in ranks.items()}, lora.rank, renamed),
        alpha_pattern=_patterns({name: alpha for name, (_, alpha) in ranks.items()}, lora.alpha, renamed),
        use_dora=lora.dora,
        use_rslora=lora.rslora,
    )


def _check_parameters(name: str, lora: LoRA) -> None:
    """What peft cannot do where the adapter is added to a weight itself, and not to what comes out of a layer."""
    refused: dict[str, tuple[object, object, object]] = {
        "dropout": (lora.dropout, 0.0, 0),
        "dora": (lora.dora, False, "false"),
        "initialization": (str(lora.initialization), str(Initialization.DEFAULT), Initialization.DEFAULT),
    }
    for option, (value, usual, written) in refused.items():
        if value != usual:
            message = (
                f"cannot be applied to {name}, whose adapter is added to the weight itself: write {written}, or name "
                "targetModules without experts"
            )
            raise SpecError([Problem(f"spec.method.lora.{option}", value, message)])


def _patterns(values: Mapping[str, int], usual: int, renamed: Iterable[str]) -> dict[str, int]:
    """peft's patterns, regular expressions on the ends of names, for the values that are not the usual one."""
    found = {}
    for value in sorted(set(values.values()) - {usual}):
        mine = {name for name, other in values.items() if other == value}
        for ending in endings(mine, values.keys() - mine):
            found[re.escape(ending)] = value
    return {f"{key}.weight" if _is_renamed(key, renamed) else key: value for key, value in found.items()}


def _is_renamed(pattern: str, renamed: Iterable[str]) -> bool:
    return any(re.fullmatch(rf"(.*\.)?{pattern}", name) for name in renamed)


def _check(adapted: nn.Module, ranks: Mapping[str, RankAndAlpha], lora: LoRA) -> None:
    """Whether peft did exactly what was asked for."""
    found = {name: (layer.r["default"], layer.lora_alpha["default"]) for name, layer in adapted_layers(adapted).items()}
    if different := sorted(dict(found.items() ^ ranks.items())):
        message = (
            "peft adapts other weights than were asked for, or with other ranks; the difference is "
            f"{', '.join(different[:8])}"
        )
        raise SpecError([Problem(PATH, list(lora.target_modules), message)])


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
