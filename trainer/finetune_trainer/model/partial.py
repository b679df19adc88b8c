"""Full fine-tuning of a part of the weights: what the manifest's patterns name is trained, the rest is frozen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.model.keys import SCORE_WEIGHT
from finetune_trainer.model.targets import choose
from finetune_trainer.spec.method import Full

PATH = "spec.method.full"


def freeze(model: nn.Module, full: Full) -> None:
    """Leave a gradient to the weights that `full.train` names and `full.freeze` does not.

    A score head, which may be new, is trained without being named. A weight that several modules share is named by each
    of its names. Raises SpecError for a pattern that names no weight, and when nothing is left to train.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    trained = {id(named[name]) for name in [*_weights(list(named), full.train, "train"), SCORE_WEIGHT] if name in named}
    frozen = {id(named[name]) for name in _weights(list(named), full.freeze, "freeze")}
    if not trained - frozen:
        message = "leaves nothing to train: remove a pattern"
        raise SpecError([Problem(f"{PATH}.freeze", list(full.freeze), message)])
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained - frozen)


def _weights(names: list[str], patterns: Sequence[str], field: str) -> list[str]:
    """Those of the weights' `names` that a pattern names, or names a module around."""
    around = {".".join(parts[:end]) for parts in map(_parts, names) for end in range(1, len(parts) + 1)}
    chosen = set(choose(sorted(around), patterns, f"{PATH}.{field}", "no weight of this model"))
    return [
        name for name in names if any(".".join(_parts(name)[:end]) in chosen for end in range(1, name.count(".") + 2))
    ]


def _parts(name: str) -> list[str]:
    return name.split(".")
