"""What is trained whole beside adapters: modules that the manifest names, and the embeddings of added tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torch import nn

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.model.targets import choose

PATH = "spec.method.lora.modulesToSave"


def find_saved(model: nn.Module, patterns: Sequence[str], adapted: Collection[str]) -> list[str]:
    """Full names of the modules that `patterns` name, without those inside of another one.

    Raises SpecError for a pattern that names no module with weights, for a module that has an adapter as well (one of
    `adapted` is in it), and for one that shares its weights with another module.
    """
    modules = {name: module for name, module in model.named_modules() if name and _has_weights(module)}
    chosen = choose(list(modules), patterns, PATH, "no module of this model")
    saved = [name for name in chosen if not any(name.startswith(f"{outer}.") for outer in chosen)]
    problems = []
    for name in saved:
        if inside := sorted(one for one in adapted if one == name or one.startswith(f"{name}.")):
            message = f"has an adapter on {inside[0]} already: leave it out of targetModules, or remove it here"
            problems.append(Problem(PATH, name, message))
        if other := _tied_to(model, name, modules[name]):
            message = f"shares its weights with {other}, and a copy of them would be trained alone: " + (
                "remove it, or write type: Full"
            )
            problems.append(Problem(PATH, name, message))
    if problems:
        raise SpecError(problems)
    return saved


def suffixes(names: Collection[str], others: Collection[str]) -> list[str]:
    """What peft must be told to save exactly the modules `names`: it takes every module whose name ends with a text."""
    lasts = {name: name.rpartition(".")[2] for name in names}
    return sorted({name if any(one.endswith(last) for one in others) else last for name, last in lasts.items()})


def token_rows(model: Any, tokens: Sequence[int], saved: Collection[str]) -> dict[str, list[int]]:
    """Names of the embeddings, each with the rows to train; an output embedding that is the input's follows that one.

    An embedding that is trained whole is left out.
    """
    source, head = model.get_input_embeddings(), model.get_output_embeddings()
    modules = [source] if head is None or head.weight is source.weight else [source, head]
    names = {id(module): name for name, module in model.named_modules()}
    found = [names[id(module)] for module in modules]
    return {name: sorted(tokens) for name in found if tokens and name not in saved}


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _tied_to(model: nn.Module, name: str, module: nn.Module) -> str | None:
    mine = {id(parameter) for parameter in module.parameters()}
    shared = (other for other, parameter in _aliases(model) if id(parameter) in mine)
    return next((other for other in shared if not other.startswith(f"{name}.")), None)


def _aliases(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    yield from model.named_parameters(remove_duplicate=False)
