"""Which DeepSpeed options `deepspeed.overrides` may set, by dotted name, and why it may not set the others.

The tables follow DeepSpeed 0.19; a test compares them with the installed release.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from finetune_trainer.spec.yaml_reader import core_scalar

OverrideScalar = bool | int | float | str

# Options that DeepSpeed 0.19.6 and later refuse (deepspeedai/DeepSpeed#8489), and their 1-bit optimizers.
REMOVED = (
    "amp",
    "compression_training",
    "curriculum_learning",
    "eigenvalue",
    "elasticity",
    "graph_harvesting",
    "nebula",
    "progressive_layer_drop",
    "quantize_training",
    "sparse_attention",
    "sparse_gradients",
    "zero_optimization.mics_hierarchical_params_gather",
    "zero_optimization.mics_shard_size",
    "zero_optimization.zeropp_loco_param",
)

_TRAINER = "is set by the trainer: leave it out"
_OFFLOAD_OPTIMIZER = "write spec.deepspeed.offloadOptimizer instead"
_OFFLOAD_PARAMETERS = "write spec.deepspeed.offloadParameters instead"
_CHECKPOINT = "is set by the trainer, which writes its own checkpoints: leave it out and see spec.checkpoint"
_METRICS = "is set by the trainer, which writes its metrics beside the output: leave it out"
_LOSS = "is set by the trainer, which divides the loss by the tokens of the whole step: leave it out"
_NOT_YET = "is not available yet: leave it out"

# Options, or whole sections, that follow from the manifest: what to do instead.
OWNED: dict[str, str] = {
    "train_batch_size": "write spec.training.globalBatchSize instead",
    "train_micro_batch_size_per_gpu": "write spec.training.microBatchSize instead",
    "gradient_accumulation_steps": "follows from spec.training.globalBatchSize and microBatchSize: write these instead",
    "managed_gradient_accumulation": _TRAINER,
    "gradient_clipping": "write spec.training.maxGradNorm instead",
    "gradient_allreduce_op": _LOSS,
    "gradient_predivide_factor": _LOSS,
    "prescale_gradients": _LOSS,
    "optimizer": "write spec.training.optimizer instead",
    "zero_allow_untested_optimizer": _TRAINER,
    "zero_force_ds_cpu_optimizer": _TRAINER,
    "scheduler": "write spec.training.schedule instead",
    "bf16": "write spec.training.precision instead",
    "bfloat16": "write spec.training.precision instead",
    "fp16": "write spec.training.precision instead (BF16 or FP32)",
    "torch_autocast": "write spec.training.precision instead",
    "data_types": "follows from spec.training.precision: write that instead",
    "activation_checkpointing": "write spec.training.gradientCheckpointing instead",
    "checkpoint": _CHECKPOINT,
    "use_node_local_storage": _CHECKPOINT,
    "datastates_ckpt": _CHECKPOINT,
    "data_efficiency": "is set by the trainer, which reads the data itself: leave it out and see spec.data",
    "dataloader_drop_last": "is set by the trainer, which reads the data itself: leave it out and see spec.data",
    "vocabulary_size": _TRAINER,
    "tensorboard": _METRICS,
    "wandb": _METRICS,
    "csv_monitor": _METRICS,
    "comet": _METRICS,
    "aio": "only has an effect with NVMe offload, which is not available yet: leave it out",
    "autotuning": _NOT_YET,
    "compile": _NOT_YET,
    "expert_parallel": _NOT_YET,
    "hybrid_engine": _NOT_YET,
    "pipeline": _NOT_YET,
    "sequence_parallel_size": _NOT_YET,
    "seq_parallel_communication_data_type": _NOT_YET,
    "tensor_parallel": _NOT_YET,
    "use_data_before_expert_parallelism": _NOT_YET,
    "weight_quantization": _NOT_YET,
    "zero_optimization.stage": "write spec.deepspeed.zeroStage instead",
    "zero_optimization.offload_optimizer": _OFFLOAD_OPTIMIZER,
    "zero_optimization.offload_param": _OFFLOAD_PARAMETERS,
    "zero_optimization.cpu_offload": _OFFLOAD_OPTIMIZER,
    "zero_optimization.cpu_offload_param": _OFFLOAD_PARAMETERS,
    "zero_optimization.cpu_offload_use_pin_memory": _OFFLOAD_OPTIMIZER,
    "zero_optimization.compute_grad_norm": _TRAINER,
    "zero_optimization.elastic_checkpoint": _CHECKPOINT,
    "zero_optimization.load_from_fp32_weights": _CHECKPOINT,
    "zero_optimization.pipeline_loading_checkpoint": _CHECKPOINT,
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": _CHECKPOINT,
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": _CHECKPOINT,
    "zero_optimization.legacy_stage1": _NOT_YET,
    "zero_optimization.leaf_module": _NOT_YET,
    "zero_optimization.save_muon_momentum_buffer_in_memory": _NOT_YET,
    "zero_optimization.zenflow": _NOT_YET,
}

_ZERO_BOOLS = (
    "allgather_partitions contiguous_gradients enable_sanity_checks ignore_unused_parameters log_trace_cache_warnings "
    "memory_efficient_linear overlap_comm override_module_apply parameter_alignment reduce_scatter "
    "round_robin_gradients stage3_allgather_sequential stage3_use_all_reduce_for_fetch_params "
    "use_multi_rank_bucket_allreduce zero_quantized_gradients zero_quantized_nontrainable_weights "
    "zero_quantized_weights"
)
_ZERO_INTS = (
    "allgather_bucket_size reduce_bucket_size stage3_max_live_parameters stage3_max_reuse_distance "
    "stage3_model_persistence_threshold stage3_module_granularity_threshold stage3_param_persistence_threshold "
    "stage3_prefetch_bucket_size sub_group_size zero_hpz_partition_size"
)

# Options that may be set, with the type of their value.
ALLOWED: dict[str, type[OverrideScalar]] = {
    **{f"zero_optimization.{name}": bool for name in _ZERO_BOOLS.split()},
    **{f"zero_optimization.{name}": int for name in _ZERO_INTS.split()},
    "communication_data_type": str,
    "comms_logger.debug": bool,
    "comms_logger.enabled": bool,
    "comms_logger.prof_all": bool,
    "comms_logger.verbose": bool,
    "disable_allgather": bool,
    "disable_python_gc": bool,
    "dump_state": bool,
    "flops_profiler.detailed": bool,
    "flops_profiler.enabled": bool,
    "flops_profiler.module_depth": int,
    "flops_profiler.output_file": str,
    "flops_profiler.profile_step": int,
    "flops_profiler.recompute_fwd_factor": float,
    "flops_profiler.top_modules": int,
    "log_level": str,
    "memory_breakdown": bool,
    "steps_per_print": int,
    "timers.throughput.enabled": bool,
    "timers.throughput.synchronized": bool,
    "wall_clock_breakdown": bool,
}

_NEEDED = {bool: "true or false", int: 'a whole number such as 500000000 or "5e8"', float: "a number", str: "text"}
MAX_TEXT = 256


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("override", "{message}", {"message": message})


def check_key(key: str) -> str:
    """Returns `key` when it may be set; raises `PydanticCustomError` saying what to write instead."""
    if key in ALLOWED:
        return key
    parts = key.split(".")
    prefixes = [".".join(parts[: end + 1]) for end in range(len(parts))]
    if any(prefix in REMOVED for prefix in prefixes):
        raise _refuse("was removed from DeepSpeed (deepspeedai/DeepSpeed#8489) and would stop the run: leave it out")
    for prefix in prefixes:
        if prefix in OWNED:
            raise _refuse(OWNED[prefix])
    if inner := [name for name in ALLOWED if name.startswith(f"{key}.")]:
        raise _refuse(f'is a section: write its options by their dotted names, for instance "{inner[0]}"')
    near = difflib.get_close_matches(key, [*ALLOWED, *OWNED], n=1, cutoff=0.7) or [
        name for name in ALLOWED if name.rpartition(".")[2] in (key, parts[-1])
    ]
    if near and near[0] in OWNED:
        raise _refuse(f"is no DeepSpeed option ({near[0]} is one): {OWNED[near[0]]}")
    raise _refuse(f"is no DeepSpeed option: {f'write {near[0]}' if near else 'leave it out'}")


def parse_scalar(value: Any) -> OverrideScalar:
    """A scalar as DeepSpeed wants it: text that holds a number becomes one, and "5e8" is the whole number 500000000."""
    if value == "auto":
        raise _refuse('"auto" is filled in by the Hugging Face Trainer only: write a value or leave the option out')
    parsed = core_scalar(value) if isinstance(value, str) else value
    if not isinstance(parsed, bool | int | float | str) or len(str(parsed)) > MAX_TEXT:
        raise _refuse("is no single value: write true, false, a number or a short text")
    return int(parsed) if isinstance(parsed, float) and parsed.is_integer() else parsed


def check_value(key: str, value: OverrideScalar) -> str | None:
    """Why `value` cannot stand for the allowed option `key`, and what to write; None when it can."""
    wanted = ALLOWED[key]
    if not _has_type(value, wanted):
        return f"has the wrong type: write {_NEEDED[wanted]}"
    least = minimum(key)
    if not isinstance(value, str) and value < least:
        return f"is too small: write {least} or more"
    return None


def _has_type(value: OverrideScalar, wanted: type[OverrideScalar]) -> bool:
    if isinstance(value, bool) or wanted is bool:
        return isinstance(value, bool) and wanted is bool
    return isinstance(value, int | float) if wanted is float else isinstance(value, wanted)


def minimum(key: str) -> int:
    """The least number that the allowed option `key` may be."""
    if key == "flops_profiler.module_depth":
        return -1  # all levels
    return 1 if key.endswith(("_bucket_size", "sub_group_size", "hpz_partition_size")) else 0


_SCALAR_SCHEMA = {
    "anyOf": [{"type": "boolean"}, {"type": "number"}, {"type": "string", "maxLength": MAX_TEXT}],
    "x-kubernetes-preserve-unknown-fields": True,
}
OverrideKey = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(check_key)]
OverrideValue = Annotated[OverrideScalar, BeforeValidator(parse_scalar), WithJsonSchema(_SCALAR_SCHEMA)]
Overrides = Annotated[dict[OverrideKey, OverrideValue], Field(max_length=64)]
