"""What of a manifest decides about memory on one rank, with the numbers that the engine works with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Self

from finetune_trainer.spec import (
    OBJECTIVES,
    FineTuneJob,
    Full,
    GradientCheckpointing,
    LoRA,
    MethodType,
    ObjectiveType,
    Offload,
    Packing,
    Precision,
    ProblemType,
)
from finetune_trainer.spec.objective import Reference

REDUCE_BUCKET = 500_000_000  # elements; what `engine.config` sets
PREFETCH_BUCKET = 50_000_000  # elements; DeepSpeed 0.19, deepspeed/runtime/zero/config.py
MAX_LIVE = 1_000_000_000  # elements gathered at a time, the same file
PERSISTENCE = 100_000  # elements of a weight that stage 3 keeps whole; what `engine.config` sets


@dataclass(frozen=True)
class Setup:
    """How one job trains on one kind of device.

    `ranks` of them share the state by ZeRO, `ranks_per_node` a node's memory. `micro_batch` rows of `length` tokens go
    through the model at a time, `micro_batches` times for an update; `packed` rows hold several documents, so that
    attention has a mask. `kept` is the share of tokens that are trained on. `pairs`: the two documents of a row stand
    in lines of their own, each padded to at most that length. `full`: the part of the weights that trains. `labels`:
    scores of a score head, in place of logits. `copies_model`: a second, frozen model is the reference.
    `whole_weights`: stage 3 is refused. Buckets are in elements.
    """

    method: MethodType
    lora: LoRA | None
    zero_stage: int
    bf16: bool
    checkpointing: bool
    offload_optimizer: bool
    offload_parameters: bool
    ranks: int
    ranks_per_node: int
    on_gpu: bool
    micro_batch: int
    micro_batches: int
    length: int
    packed: bool
    kept: float = 1.0
    pairs: bool = False
    full: Full | None = None
    labels: int = 0
    added_tokens: int = 0
    copies_model: bool = False
    double_quantization: bool = True
    whole_weights: bool = False
    reduce_bucket: int = REDUCE_BUCKET
    prefetch_bucket: int = PREFETCH_BUCKET
    max_live: int = MAX_LIVE
    persistence: int = PERSISTENCE

    @classmethod
    def of(cls, job: FineTuneJob, ranks: int, *, on_gpu: bool, micro_batch: int | None = None) -> Self:
        """The manifest on that many ranks; `micro_batch` stands for one that it leaves out, else 1."""
        spec, zero = job.spec, job.spec.deepspeed
        rows = ceil(spec.training.global_batch_size / ranks)
        micro = min(spec.training.micro_batch_size or micro_batch or 1, rows)
        sizes = _Sizes(zero.overrides or {})
        return cls(
            method=spec.method.type,
            lora=spec.method.lora,
            zero_stage=zero.zero_stage,
            bf16=spec.training.precision == Precision.BF16,
            checkpointing=use_gradient_checkpointing(spec.training.gradient_checkpointing, on_gpu=on_gpu),
            offload_optimizer=zero.offload_optimizer != Offload.NONE,
            offload_parameters=zero.offload_parameters != Offload.NONE,
            ranks=ranks,
            ranks_per_node=min(ranks, spec.workers.ranks_per_replica),
            on_gpu=on_gpu,
            micro_batch=micro,
            micro_batches=ceil(rows / micro),
            length=spec.data.max_length,
            packed=spec.data.packing == Packing.BEST_FIT,
            pairs=OBJECTIVES[spec.objective.type].paired and spec.data.packing == Packing.NONE,
            full=spec.method.full,
            labels=_labels(job),
            added_tokens=len(set(spec.model.added_tokens)),
            copies_model=_copies_model(job),
            double_quantization=spec.method.qlora is None or spec.method.qlora.double_quantization,
            whole_weights=_needs_whole_weights(job),
            reduce_bucket=sizes.get("reduce_bucket_size", REDUCE_BUCKET),
            prefetch_bucket=sizes.get("stage3_prefetch_bucket_size", PREFETCH_BUCKET),
            max_live=sizes.get("stage3_max_live_parameters", MAX_LIVE),
            persistence=sizes.get("stage3_param_persistence_threshold", PERSISTENCE),
        )

    @property
    def element(self) -> int:
        """Bytes of an element of the weights and activations."""
        return 2 if self.bf16 else 4

    @property
    def rows(self) -> int:
        """Sequences in a forward pass."""
        return self.micro_batch * (2 if self.pairs else 1)

    @property
    def tokens(self) -> int:
        """Tokens in a forward pass with padding, every line full."""
        return self.rows * self.length

    @property
    def scores(self) -> bool:
        """Whether the model has a score head, and no output embedding."""
        return self.labels > 0

    @property
    def accumulates(self) -> bool:
        """Whether gradients of earlier micro-batches are kept while a later one runs."""
        return self.micro_batches > 1

    def with_micro_batch(self, micro_batch: int) -> Self:
        """The same global batch in other micro-batches."""
        rows = self.micro_batch * self.micro_batches
        return replace(self, micro_batch=micro_batch, micro_batches=ceil(rows / micro_batch))


def _labels(job: FineTuneJob) -> int:
    """Scores of the head; at least two where a classifier takes its labels from the data."""
    options = job.spec.objective.classification
    if not OBJECTIVES[job.spec.objective.type].scores:
        return 0
    if options is None or options.problem is ProblemType.REGRESSION:
        return 1
    return len(options.labels) or 2


def _copies_model(job: FineTuneJob) -> bool:
    objective = job.spec.objective
    options = {ObjectiveType.DPO: objective.dpo, ObjectiveType.KTO: objective.kto}.get(objective.type)
    return options is not None and options.reference is Reference.COPY


def _needs_whole_weights(job: FineTuneJob) -> bool:
    """Whether a rule refuses stage 3: `spec.rules_method`, `spec.rules_objective`."""
    lora = job.spec.method.lora
    takes = lora is not None and lora.takes_weights
    return takes or bool(job.spec.model.added_tokens) or _copies_model(job)


def use_gradient_checkpointing(chosen: GradientCheckpointing, *, on_gpu: bool) -> bool:
    """`Auto` is on where memory is scarce, on a GPU, and off on a CPU, where recomputing only costs time."""
    return on_gpu if chosen == GradientCheckpointing.AUTO else chosen == GradientCheckpointing.ON


class _Sizes:
    """DeepSpeed options of the manifest's overrides, in elements."""

    def __init__(self, overrides: dict[str, Any]) -> None:
        self._overrides = overrides

    def get(self, name: str, default: int) -> int:
        value = self._overrides.get(f"zero_optimization.{name}", default)
        return int(float(value)) if isinstance(value, int | float | str) and str(value) != "auto" else default
