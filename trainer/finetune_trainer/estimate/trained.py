"""What of a model is trained under a method: weights as they are, copies of modules, adapters, rows of embeddings.

By the rules of `model.partial`, `model.saved` and `model.lora`, whose patterns name weights or modules around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate

from finetune_trainer.estimate.setup import Setup
from finetune_trainer.estimate.shape import EMBEDDING, HEAD, Linear, ModelShape
from finetune_trainer.spec import LoRA, MethodType
from finetune_trainer.spec.names import named


@dataclass(frozen=True)
class Adapter:
    """The adapter of a matrix, named in full."""

    name: str
    linear: Linear
    rank: int
    dora: bool

    @property
    def sides(self) -> tuple[int, ...]:
        """Elements of each of its weights: A, B, and with DoRA the lengths of the matrix's rows."""
        linear = self.linear
        sides = tuple(self.rank * linear.copies * width for width in (linear.inputs, linear.outputs))
        return (*sides, linear.outputs) if self.dora else sides


@dataclass(frozen=True)
class Trained:
    """`weights`: elements of the model's own weights that train, by full name; `copies`: of those of which a copy is
    trained; `adapters`; `tokens`: elements of the rows of added tokens, in each embedding."""

    weights: Mapping[str, int] = field(default_factory=dict, hash=False)
    copies: Mapping[str, int] = field(default_factory=dict, hash=False)
    adapters: tuple[Adapter, ...] = ()
    tokens: tuple[int, ...] = ()

    @property
    def added(self) -> int:
        """Elements that the method adds to the model's."""
        return sum(self.copies.values()) + sum(side for one in self.adapters for side in one.sides) + sum(self.tokens)

    @property
    def sizes(self) -> list[int]:
        """Elements of each weight that trains."""
        sides = [side for one in self.adapters for side in one.sides]
        return [*self.weights.values(), *self.copies.values(), *sides, *self.tokens]

    @property
    def names(self) -> frozenset[str]:
        """Full names of weights, and of the matrices that have adapters."""
        return frozenset([*self.weights, *self.copies, *(one.name for one in self.adapters)])

    @property
    def embeds(self) -> bool:
        """Whether the input embedding trains, so that every layer has something before it that does."""
        return bool(self.tokens) or EMBEDDING in self.names


@lru_cache(maxsize=64)
def trained(shape: ModelShape, setup: Setup) -> Trained:
    """What trains of the model under the setup's method."""
    weights = dict(shape.weights(setup.labels))
    if setup.method == MethodType.FULL or setup.lora is None:
        full = setup.full
        if full is None:
            return Trained(weights)
        chosen = {name: size for name, size in weights.items() if _named(shape, name, full.train)}
        return Trained({name: size for name, size in chosen.items() if not _named(shape, name, full.freeze)})
    copies = {name: size for name, size in weights.items() if _is_saved(name, setup.lora.modules_to_save)}
    tables = 1 if shape.tied or setup.scores else 2
    whole = [name for name in (EMBEDDING, f"{HEAD}.weight") if name in copies]
    tokens = [shape.hidden * setup.added_tokens] * (tables - len(whole)) if setup.added_tokens else []
    return Trained({}, copies, _adapters(shape, setup.lora, scores=setup.scores), tuple(tokens))


def live(shape: ModelShape, setup: Setup) -> ModelShape:
    """The model from the first layer that trains on: what lies before it keeps nothing for the backward pass."""
    found = trained(shape, setup)
    if found.embeds:
        return shape
    numbers = [int(name.split(".")[2]) for name in found.names if name.startswith("model.layers.")]
    layers = shape.layers - min(numbers, default=shape.layers)
    return replace(shape, layers=layers, sparse_layers=min(shape.sparse_layers, layers))


def _adapters(shape: ModelShape, lora: LoRA, *, scores: bool) -> tuple[Adapter, ...]:
    found = [(name, linear) for name, linear in shape.adapted(lora.target_modules) if not (scores and name == HEAD)]
    return tuple(Adapter(name, linear, _rank(name, lora), lora.dora) for name, linear in found)


def _rank(name: str, lora: LoRA) -> int:
    """Its rank by the first entry that names it; of a fused expert's matrix the name is the weight's own."""
    entry = next((one for one in lora.per_module if any(named(name, pattern) for pattern in one.modules)), None)
    return (entry and entry.rank) or lora.rank


def _named(shape: ModelShape, weight: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern names the weight or a module around it; a tied embedding has two names."""
    names = [weight, f"{HEAD}.weight"] if weight == EMBEDDING and shape.tied else [weight]
    around = [path for name in names for path in _paths(name)]
    return any(named(path, pattern) for pattern in patterns for path in around)


def _is_saved(weight: str, patterns: Sequence[str]) -> bool:
    """A score head is saved in any case."""
    return weight.startswith("score.") or any(
        named(path, pattern) for pattern in patterns for path in _paths(weight)[:-1]
    )


def _paths(name: str) -> list[str]:
    return list(accumulate(name.split("."), lambda path, part: f"{path}.{part}"))
