"""Proof, on the model at hand, that documents packed into one row do not see each other.

Packing relies on transformers finding document borders from positions that start again at 0. Whether an architecture
obeys depends on its attention, its layers (state-space layers carry their state over), and its version; so it is tried:
the logits of a document behind another one are compared with those of the same document alone in its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.model.head import Positions
from finetune_trainer.model.load import full_shape

# Relative to the spread of logits. float32: measured 1e-6 for isolated architectures, 0.1 and more for leaks. In lower
# precision a rounding step or two; what rounding does on this very model is measured as well, see `rounding`.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
ROUNDING_FACTOR = 4.0  # how much more than the measured rounding is still taken for rounding
MOST_ROUNDING = 0.2  # above it rounding hides leaks, and nothing can be proved
LENGTHS = (37, 29)  # no multiples of a kernel's block, longer than a short convolution
FIRST_ID = 3  # below are usually padding and borders


@dataclass(frozen=True)
class IsolationReport:
    """Largest differences of logits, relative to their standard deviation.

    `alone`: a document behind another one, against alone in its row. `other_neighbour`: behind another one, against
    behind a different one. `rounding`: alone, against followed by another document, which cannot matter to a causal
    model: it is what other shapes do to the arithmetic. `tolerance` is what the first two were held to.
    """

    dtype: str
    alone: float
    other_neighbour: float
    rounding: float
    tolerance: float

    @property
    def isolated(self) -> bool:
        """Whether nothing but rounding was seen."""
        return max(self.alone, self.other_neighbour) <= self.tolerance and self.rounding <= MOST_ROUNDING

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for the audit."""
        return asdict(self) | {"isolated": self.isolated}


def prove_isolation(model: nn.Module, device: torch.device, head: Positions | None = None) -> IsolationReport:
    """Run `model`, a causal language model whole or inside a DeepSpeed engine, on packed documents; collective.

    With `head` a model that says something else of each position (`score.ScorePositions`) is run. Every rank runs the
    same four forward passes of one short row, without gradients and dropout. Raises SpecError that tells to set
    `spec.data.packing: None` if one document's logits depend on its neighbour.
    """
    report = measure_isolation(model, device, head)
    if not report.isolated:
        raise SpecError([Problem("spec.data.packing", "BestFit", _reason(report))])
    return report


@torch.no_grad()
def measure_isolation(model: nn.Module, device: torch.device, head: Positions | None = None) -> IsolationReport:
    """The differences that `prove_isolation` judges; a model that takes no positions leaks by definition."""
    training = model.training
    model.train(False)
    try:
        first, second, other = _documents(model, device)
        alone = _logits(model, [second], head)
        packed = _logits(model, [first, second], head)[len(first) :]
        beside_other = _logits(model, [other, second], head)[len(other) :]
        followed = _logits(model, [second, first], head)[: len(second)]
    finally:
        model.train(training)
    spread = alone.std().clamp(min=torch.finfo(torch.float32).tiny)
    dtype = next(model.parameters()).dtype
    rounding = _difference(alone, followed, spread)
    return IsolationReport(
        dtype=str(dtype).removeprefix("torch."),
        alone=_difference(alone, packed, spread),
        other_neighbour=_difference(packed, beside_other, spread),
        rounding=rounding,
        tolerance=max(TOLERANCE[dtype], ROUNDING_FACTOR * rounding),
    )


def _documents(model: nn.Module, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Three documents of random ids, the first and third of the same length; the same on every rank."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    vocabulary = full_shape(embedding.weight)[0]
    generator = torch.Generator().manual_seed(0)
    lengths = (LENGTHS[0], LENGTHS[1], LENGTHS[0])
    low = min(FIRST_ID, vocabulary - 1)
    first, second, other = (torch.randint(low, vocabulary, (n,), generator=generator).to(device) for n in lengths)
    return first, second, other


def _logits(model: nn.Module, documents: Sequence[Tensor], head: Positions | None) -> Tensor:
    """Float32 logits [L, V] of one row of packed documents, called as training calls the model."""
    positions = torch.cat([torch.arange(len(document), device=document.device) for document in documents])
    ids = torch.cat(list(documents))[None]
    with nullcontext() if head is None else head.select(torch.arange(ids.numel(), device=ids.device)):
        output = model(input_ids=ids, position_ids=positions[None], attention_mask=None, use_cache=False)
    logits: Tensor = output.logits[0].float()
    return logits


def _difference(expected: Tensor, found: Tensor, spread: Tensor) -> float:
    return float((expected - found).abs().max() / spread)


def _reason(report: IsolationReport) -> str:
    if report.rounding > MOST_ROUNDING:
        return (
            f"cannot be proved to keep documents apart, because rounding in {report.dtype} moves this model's logits "
            f"by {report.rounding:.2g} of their spread: write None, or training.precision: FP32"
        )
    return (
        f"lets documents see each other in this model: behind another document, logits move by {report.alone:.2g} of "
        f"their spread, and by {report.other_neighbour:.2g} with another neighbour, where {report.tolerance:.2g} is "
        "rounding; its layers do not reset where positions start again: write None"
    )
