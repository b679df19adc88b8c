"""Steps, tokens, time, and what checkpoints cost in S3."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from finetune_trainer.estimate.setup import Setup
from finetune_trainer.estimate.shape import ModelShape
from finetune_trainer.estimate.state import Counts
from finetune_trainer.spec import FineTuneJob, MethodType

UTILISATION = 0.35
"""Share of the peak speed that training reaches. NeMo AutoModel reports 0.41 for Llama-3-8B with LoRA on one H100 and
prime-rl 0.17 to 0.37 for 0.6B to 4B (their published tables); one figure between them is assumed."""

STORED = 0.023  # US dollars per GB and month: S3 Standard, us-east-1, first 50 TB, list price of 2025
PUT = 0.005 / 1000  # US dollars per request, the same
OBJECT_BYTES = 12 * 16 * 2**20  # `engine.share.SHARD_ELEMENTS` with weights and moments


@dataclass(frozen=True)
class Work:
    """Optimizer steps, tokens of a step at most, seconds of a step; None is unknown."""

    steps: int | None
    tokens_per_step: int
    seconds_per_step: float | None

    @property
    def seconds(self) -> float | None:
        """Of the whole training, without evaluation, checkpoints and start."""
        if self.steps is None or self.seconds_per_step is None:
            return None
        return self.steps * self.seconds_per_step


@dataclass(frozen=True)
class StoreCost:
    """What the checkpoints that are kept take: bytes; in S3, US dollars a month, and of the requests of one save."""

    kept: int
    size: int
    dollars_per_month: float | None
    dollars_per_save: float | None


def work(job: FineTuneJob, shape: ModelShape, setup: Setup, teraflops: float | None, rows: float | None) -> Work:
    """What a run has to do; `rows` are those of an epoch if they are known, `teraflops` the peak of one device."""
    training = job.spec.training
    per_step = training.global_batch_size * setup.length  # both documents of a pair together, without padding
    steps = training.max_steps
    if steps is None and rows is not None and training.epochs is not None:
        steps = max(1, ceil(rows * training.epochs / training.global_batch_size))
    speed = None if not teraflops else teraflops * 1e12 * UTILISATION * setup.ranks
    return Work(steps, per_step, None if speed is None else per_step * flops_per_token(shape, setup) / speed)


def flops_per_token(shape: ModelShape, setup: Setup) -> float:
    """Operations of a forward and backward pass for one token of a full row, recomputation included.

    2 for each matrix element forward and, backward, 2 for the input's gradient and 2 for the weight's where it trains;
    scores and their use cost 4 L d per layer forward, twice that backward (PaLM, arXiv:2204.02311, appendix B); with
    causal attention and no mask half of it.
    """
    matrices = shape.active_matrices + (0 if setup.scores else setup.kept * shape.embedding)
    attention = 2.0 * shape.layers * setup.length * shape.query * (2 if setup.packed else 1)
    forward = 2.0 * matrices + attention
    backward = forward + attention + (2.0 * matrices if setup.method == MethodType.FULL else 0.0)
    return forward * (2 if setup.checkpointing else 1) + backward


def store_cost(job: FineTuneJob, counts: Counts, size: int) -> StoreCost:
    """Of the checkpoints, by the store's list price: those that are kept, and one that replaces another."""
    in_s3 = job.spec.checkpoint.uri.startswith("s3://")
    kept = job.spec.checkpoint.keep_last + job.spec.checkpoint.keep_best + 1
    objects = ceil(size / OBJECT_BYTES) + 4
    return StoreCost(kept, kept * size, kept * size / 1e9 * STORED if in_s3 else None, objects * PUT if in_s3 else None)
