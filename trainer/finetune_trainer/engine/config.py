"""The DeepSpeed configuration as a pure function of the manifest.

Every default that moved between DeepSpeed releases is set here, so that an upgrade of the library changes no run:
`gradient_clipping` (0.19.3), `bf16.check_grad_overflow` (0.19.3), `memory_efficient_linear` (0.19.4), `pin_memory`
(0.19.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from finetune_trainer.estimate import PERSISTENCE, REDUCE_BUCKET, ModelShape, settle
from finetune_trainer.spec import FineTuneJob, Offload, Precision

DEFAULT_MICRO_BATCH_SIZE = 1


def micro_batch_size(job: FineTuneJob, world_size: int) -> int:
    """Rows per rank and forward pass: as written, else as many as the rank has, at most `DEFAULT_MICRO_BATCH_SIZE`."""
    chosen = job.spec.training.micro_batch_size
    rows_per_rank = ceil(job.spec.training.global_batch_size / world_size)
    return chosen if chosen is not None else min(DEFAULT_MICRO_BATCH_SIZE, rows_per_rank)


def with_micro_batch(job: FineTuneJob, shape: ModelShape | None, memory: int | None, world_size: int) -> FineTuneJob:
    """The job with the micro-batch written out that fits into GPUs of `memory` bytes, where the manifest leaves it out.

    Unchanged on a CPU and where memory or the model's shape are unknown: `micro_batch_size` chooses then.
    """
    if shape is None or memory is None or job.spec.training.micro_batch_size is not None:
        return job
    chosen = settle(job, shape, memory, world_size).micro_batch
    training = job.spec.training.model_copy(update={"micro_batch_size": chosen})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"training": training})})


def micro_batches_per_step(job: FineTuneJob, world_size: int) -> int:
    """Forward passes per rank and optimizer step when the global batch is full; ranks short of rows run empty ones."""
    rows_per_rank = ceil(job.spec.training.global_batch_size / world_size)
    return ceil(rows_per_rank / micro_batch_size(job, world_size))


def deepspeed_config(job: FineTuneJob, world_size: int, *, on_gpu: bool) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`; `spec.deepspeed.overrides` come last (owned keys are refused earlier).

    Clipping at stage 0 in float32 is left to our step, because DeepSpeed reports no gradient norm there.
    """
    training, zero = job.spec.training, job.spec.deepspeed
    micro = micro_batch_size(job, world_size)
    accumulation = micro_batches_per_step(job, world_size)
    bf16 = training.precision == Precision.BF16
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro * accumulation * world_size,
        "gradient_clipping": 0.0 if zero.zero_stage == 0 and not bf16 else training.max_grad_norm or 0.0,
        "bf16": {"enabled": bf16, "check_grad_overflow": True},
        "zero_allow_untested_optimizer": True,  # torch.optim.AdamW, proved against a one-process reference
        "zero_optimization": _zero_block(job, on_gpu=on_gpu),
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
        "disable_python_gc": False,
    }
    if bf16 and zero.zero_stage > 0:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return apply_overrides(config, zero.overrides or {})


def _zero_block(job: FineTuneJob, *, on_gpu: bool) -> dict[str, Any]:
    zero = job.spec.deepspeed
    block: dict[str, Any] = {"stage": zero.zero_stage}
    if zero.zero_stage == 0:
        return block
    block |= {"overlap_comm": on_gpu, "contiguous_gradients": True, "reduce_bucket_size": REDUCE_BUCKET}
    if zero.zero_stage == 3:
        block |= {"stage3_param_persistence_threshold": PERSISTENCE, "stage3_gather_16bit_weights_on_model_save": False}
        block |= {"memory_efficient_linear": True}  # the graph then holds no gathered weights
    if zero.offload_optimizer == Offload.CPU:
        block["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if zero.offload_parameters == Offload.CPU:
        block["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    return block


def apply_overrides(config: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with each dotted key (`zero_optimization.reduce_bucket_size`) set; neither argument is changed."""
    merged = dict(config)
    for dotted, value in overrides.items():
        head, _, rest = dotted.partition(".")
        inner = merged.get(head)
        merged[head] = apply_overrides(inner if isinstance(inner, dict) else {}, {rest: value}) if rest else value
    return merged
