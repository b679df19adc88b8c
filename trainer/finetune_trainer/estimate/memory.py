"""Peak memory of one rank: the worst moment of a step, as the sum of what is held then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from finetune_trainer.estimate.activations import Activations
from finetune_trainer.estimate.setup import Setup
from finetune_trainer.estimate.shape import ModelShape
from finetune_trainer.estimate.state import (
    Counts,
    Item,
    Place,
    bucket,
    count,
    gathered,
    gathering,
    kept_gradients,
    reduction,
    resident,
    update,
)
from finetune_trainer.spec import MethodType


@dataclass(frozen=True)
class Peak:
    """The moment of a step that takes most, in bytes of tensors on one rank, and what they are."""

    moment: str
    parts: dict[str, int] = field(hash=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(self.parts.values())


def peak(shape: ModelShape, setup: Setup) -> Peak:
    """The peak on the device, in tensors that torch allocates; without context and fragmentation."""
    moments = [Peak(name, _sum(items)) for name, items in _moments(shape, setup).items()]
    return max(moments, key=lambda moment: moment.size)


def held(counts: Counts, setup: Setup, place: Place) -> dict[str, int]:
    """What is held at least while a step runs, by name, in bytes at a place."""
    return _sum([*resident(counts, setup), *kept_gradients(counts, setup)], place)


def _moments(shape: ModelShape, setup: Setup) -> dict[str, list[Item]]:
    counts, activations = count(shape, setup), Activations.of(shape, setup)
    state = list(resident(counts, setup))
    before = [*state, *kept_gradients(counts, setup)]
    together = Item("gathered weights", gathered(counts, setup))
    copies = Item("gathered weights", gathering(counts, setup))  # held until the last of them is used
    forward = [*before, together, Item("activations", activations.saved), Item("logits", activations.logits)]
    adds = setup.added_tokens and setup.method != MethodType.FULL and not setup.scores
    merged = setup.element * (shape.embedding if adds else 0)
    forward.append(Item("embedding with added tokens", merged))  # made anew by peft in every pass
    head = merged or setup.element * (shape.embedding if counts.trains_head else 0)
    at_head = Item("activations", setup.element * setup.tokens * shape.hidden)
    layer = Item("activations", activations.recomputed + activations.backward)
    reducing = list(reduction(counts, setup))
    left = 1 - min(1.0, setup.reduce_bucket / max(1, counts.trainable))  # of the pass, as the first bucket is sent
    unsent = [] if setup.zero_stage < 2 else [Item("activations", left * activations.saved)]
    ungathered = Item("gathered weights", left * gathered(counts, setup))
    weight = Item("gradients", setup.element * counts.largest_trainable)
    early = Item("buckets", bucket(setup) if not setup.accumulates or setup.zero_stage == 2 else 0)
    return {
        "gathering of weights": [*before, together, copies, Item("activations", activations.saved)],
        "loss": [*forward, Item("logits", activations.loss)],
        "backward pass through the output embedding": [*forward, Item("gradients", head), at_head],
        "backward pass": [*before, together, Item("activations", activations.saved), layer, early, weight],
        "reduction of gradients": [
            *before,
            *reducing,
            *unsent,
            ungathered,
            weight if setup.zero_stage else Item("", 0),
        ],
        "update": [*state, *update(counts, setup)],
    }


def _sum(items: Iterable[Item], place: Place = Place.DEVICE) -> dict[str, int]:
    total: dict[str, float] = defaultdict(float)
    for item in items:
        if item.place == place and item.size:
            total[item.name] += item.size
    return {name: int(size) for name, size in total.items()}
