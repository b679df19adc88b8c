"""Which weights `spec.method.lora.targetModules` names in the model at hand."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.model.keys import SCORE
from finetune_trainer.model.load import full_shape
from finetune_trainer.spec.method import ALL_LINEAR
from finetune_trainer.spec.names import named

PATH = "spec.method.lora.targetModules"


@dataclass(frozen=True)
class Targets:
    """Full names of linear modules and of parameters (experts fused into one 3-D tensor) that get an adapter."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...]


def find_targets(model: nn.Module, patterns: Sequence[str]) -> Targets:
    """What `patterns` name: `all-linear`, a name or name ending such as `self_attn.q_proj`, or a glob on the full name.

    `all-linear` is every linear layer but the output embedding, and every fused expert weight; routers stay as they
    are. A score head gets no adapter: it is trained whole beside them. Raises SpecError for each pattern that names
    nothing an adapter can be added to, with what there is.
    """
    modules = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    linear = [name for name in modules if name != SCORE]
    experts = fused_experts(model)
    head = _output_embedding(model)
    usual = [name for name in [*linear, *experts] if name != head]
    chosen: set[str] = set()
    problems = []
    for pattern in patterns:
        found = usual if pattern == ALL_LINEAR else [name for name in [*linear, *experts] if named(name, pattern)]
        if not found:
            problems.append(Problem(PATH, pattern, f"names no linear layer of this model: write {_available(usual)}"))
        chosen.update(found)
    if problems:
        raise SpecError(problems)
    return Targets(tuple(name for name in linear if name in chosen), tuple(name for name in experts if name in chosen))


def choose(names: Sequence[str], patterns: Sequence[str], path: str, nothing: str) -> list[str]:
    """Those of `names` that any of `patterns` names, in their order; patterns are as in `find_targets`.

    SpecError at `path` for each pattern that names nothing, with names that are near to it.
    """
    found = {pattern: {name for name in names if named(name, pattern)} for pattern in patterns}
    missed = [pattern for pattern, chosen in found.items() if not chosen]
    if missed:
        raise SpecError([Problem(path, one, f"names {nothing}: write {near(one, names)}") for one in missed])
    return [name for name in names if any(name in chosen for chosen in found.values())]


def near(pattern: str, names: Iterable[str]) -> str:
    """What could be meant by a pattern that names nothing: some kinds of what there is, the most similar ones first."""
    kinds = list(dict.fromkeys(kind_of(name) for name in names))
    lasts = {kind.rpartition(".")[2]: kind for kind in kinds}
    wanted = pattern.replace("*", "").strip(".")
    close = difflib.get_close_matches(wanted, kinds, n=3, cutoff=0.6)
    close += [lasts[last] for last in difflib.get_close_matches(wanted.rpartition(".")[2], lasts, n=3, cutoff=0.6)]
    return ", ".join(list(dict.fromkeys([*close, *kinds]))[:8])


def fused_experts(model: nn.Module) -> list[str]:
    """Names of parameters that hold one matrix per expert, [experts, in, out] or [experts, out, in]."""
    return [
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if not isinstance(module, _ConvNd)
        for name, parameter in module.named_parameters(recurse=False)
        if len(full_shape(parameter)) == 3
    ]


def endings(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The shortest list of name endings that match all `names` and none of `others`: last components where possible."""
    names = set(names)
    taken = {other.rpartition(".")[2] for other in others} - {""}
    return sorted({last if (last := name.rpartition(".")[2]) not in taken else name for name in names})


def kind_of(name: str) -> str:
    """What a weight is called in every layer: its name without the layers' numbers and the path above them."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :] if numbers else parts[-1:])


def _output_embedding(model: nn.Module) -> str | None:
    getter = getattr(model, "get_output_embeddings", None)
    head: Tensor | nn.Module | None = getter() if callable(getter) else None
    return next((name for name, module in model.named_modules() if module is head), None)


def _available(names: list[str]) -> str:
    kinds = Counter(kind_of(name).rpartition(".")[2] for name in names)
    return ", ".join(kinds) or "type: Full, because no layer of it can have an adapter"
