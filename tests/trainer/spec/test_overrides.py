"""`deepspeed.overrides`: what may be set, what may not, and whether the tables still fit the installed DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune_trainer.errors import SpecError
from finetune_trainer.spec import parse_job
from finetune_trainer.spec.overrides import ALLOWED, OWNED, REMOVED

Manifest = Callable[[dict[str, Any]], str]

REFUSED = {
    "train_batch_size": (8, "write spec.training.globalBatchSize instead"),
    "train_micro_batch_size_per_gpu": (8, "write spec.training.microBatchSize instead"),
    "gradient_accumulation_steps": (8, "follows from spec.training.globalBatchSize and microBatchSize"),
    "gradient_clipping": (1.0, "write spec.training.maxGradNorm instead"),
    "optimizer.params.lr": (1e-4, "write spec.training.optimizer instead"),
    "scheduler.type": ("WarmupLR", "write spec.training.schedule instead"),
    "bf16.enabled": (True, "write spec.training.precision instead"),
    "fp16.enabled": (True, "write spec.training.precision instead"),
    "activation_checkpointing.partition_activations": (True, "write spec.training.gradientCheckpointing instead"),
    "zero_optimization.stage": (3, "write spec.deepspeed.zeroStage instead"),
    "zero_optimization.offload_optimizer.device": ("cpu", "write spec.deepspeed.offloadOptimizer instead"),
    "zero_optimization.offload_param.pin_memory": (True, "write spec.deepspeed.offloadParameters instead"),
    "elasticity.enabled": (True, "was removed from DeepSpeed"),
    "compression_training": (True, "was removed from DeepSpeed"),
    "zero_optimization.mics_shard_size": (8, "was removed from DeepSpeed"),
    "tensor_parallel.autotp_size": (2, "is not available yet"),
    "zero_optimization": ({"reduce_bucket_size": 5}, "is a section: write its options by their dotted names, for inst"),
    "zero_optimiztion.overlap_comm": (True, "is no DeepSpeed option: write zero_optimization.overlap_comm"),
    "zero_optimization.reduce_bucket": (5, "is no DeepSpeed option: write zero_optimization.reduce_bucket_size"),
    "reduce_bucket_size": (5, "is no DeepSpeed option: write zero_optimization.reduce_bucket_size"),
    "grad_clipping": (1.0, "(gradient_clipping is one): write spec.training.maxGradNorm instead"),
    "qqq": (1, "is no DeepSpeed option: leave it out"),
    "zero_optimization.overlap_comm": (3, "has the wrong type: write true or false"),
    "zero_optimization.sub_group_size": ("many", 'has the wrong type: write a whole number such as 500000000 or "5e8"'),
    "zero_optimization.stage3_max_live_parameters": (-1, "is too small: write 0 or more"),
    "zero_optimization.reduce_bucket_size": ("auto", "filled in by the Hugging Face Trainer only"),
    "zero_optimization.allgather_bucket_size": ([5], "is no single value"),
    "steps_per_print": (True, "has the wrong type"),
    "communication_data_type": (32, "has the wrong type: write text"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_an_override_is_refused_with_what_to_write(manifest: Manifest, key: str) -> None:
    value, advice = REFUSED[key]
    with pytest.raises(SpecError) as refusal:
        parse_job(manifest({"deepspeed.overrides": {key: value}}))
    (problem,) = refusal.value.problems
    assert problem.path in (f'spec.deepspeed.overrides["{key}"]', f"spec.deepspeed.overrides.{key}")
    assert advice in problem.message


def test_texts_that_hold_numbers_become_numbers(manifest: Manifest) -> None:
    given = {
        "zero_optimization.reduce_bucket_size": "5e8",
        "zero_optimization.sub_group_size": 1e9,
        "zero_optimization.overlap_comm": "true",
        "flops_profiler.recompute_fwd_factor": "0.5",
        "communication_data_type": "fp32",
    }
    overrides = parse_job(manifest({"deepspeed.overrides": given})).spec.deepspeed.overrides
    assert {key: (value, type(value)) for key, value in overrides.items()} == {
        "zero_optimization.reduce_bucket_size": (500_000_000, int),
        "zero_optimization.sub_group_size": (1_000_000_000, int),
        "zero_optimization.overlap_comm": (True, bool),
        "flops_profiler.recompute_fwd_factor": (0.5, float),
        "communication_data_type": ("fp32", str),
    }


@pytest.mark.parametrize(
    ("stage", "key", "advice"),
    [
        (0, "zero_optimization.overlap_comm", "has no effect with zeroStage 0"),
        (2, "zero_optimization.stage3_allgather_sequential", "has no effect with zeroStage 2"),
    ],
)
def test_an_override_without_effect_is_refused(manifest: Manifest, stage: int, key: str, advice: str) -> None:
    with pytest.raises(SpecError, match=advice):
        parse_job(manifest({"deepspeed": {"zeroStage": stage, "overrides": {key: True}}}))


def test_no_option_is_in_two_tables() -> None:
    assert not set(ALLOWED) & (set(OWNED) | set(REMOVED))
    assert not set(OWNED) & set(REMOVED)


def test_the_removed_options_are_those_of_the_installed_deepspeed() -> None:
    from deepspeed.runtime import config

    installed = {*config._REMOVED_TOP_LEVEL_CONFIG_KEYS}
    installed |= {f"zero_optimization.{key}" for key in config._REMOVED_ZERO_CONFIG_KEYS}
    assert set(REMOVED) == installed


def test_every_zero_option_of_the_installed_deepspeed_is_known() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    installed = {f"zero_optimization.{field.alias or name}" for name, field in DeepSpeedZeroConfig.model_fields.items()}
    known = {key for key in (*ALLOWED, *OWNED) if key.startswith("zero_optimization.")}
    assert known == installed


def test_the_installed_deepspeed_takes_every_zero_option_that_may_be_set() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    values = {bool: True, int: 8}
    options = {
        key.removeprefix("zero_optimization."): values[kind]
        for key, kind in ALLOWED.items()
        if key.startswith("zero_optimization.")
    }
    assert DeepSpeedZeroConfig(**options, stage=3).reduce_bucket_size == 8
