"""The DeepSpeed configuration as a function of the manifest."""

from __future__ import annotations

import pytest

from finetune_trainer.engine.config import (
    apply_overrides,
    deepspeed_config,
    micro_batch_size,
    micro_batches_per_step,
)
from reference import job


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 5), (2, 3), (3, 2), (5, 1)])
def test_ranks_run_as_many_micro_batches_as_the_fullest_of_them_needs(world_size: int, micro_batches: int) -> None:
    assert micro_batches_per_step(job(2, "Full"), world_size) == micro_batches


def test_defaults_that_moved_between_releases_are_all_set() -> None:
    offloaded = {"offloadOptimizer": "CPU", "offloadParameters": "CPU"}
    manifest = job(3, "Full", deepspeed=offloaded, precision="BF16", maxGradNorm=0.5)
    config = deepspeed_config(manifest, 2, on_gpu=True)
    assert config["gradient_clipping"] == 0.5
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": True}
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["memory_efficient_linear"]) == (3, True)
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu", "pin_memory": True}


def test_stage_0_in_float32_leaves_clipping_to_the_step() -> None:
    assert deepspeed_config(job(0, "Full"), 2, on_gpu=False)["gradient_clipping"] == 0.0


def test_batch_sizes_multiply_as_deepspeed_demands() -> None:
    manifest = job(1, "Full", globalBatchSize=12, microBatchSize=2)
    config = deepspeed_config(manifest, 4, on_gpu=False)
    assert micro_batch_size(manifest, 4) == 2
    assert (
        config["train_batch_size"]
        == 4 * config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"]
    )


def test_overrides_reach_nested_options_and_change_nothing_else() -> None:
    before = {"zero_optimization": {"stage": 3, "overlap_comm": True}}
    after = apply_overrides(before, {"zero_optimization.reduce_bucket_size": 5e8, "prescale_gradients": True})
    assert after == {
        "zero_optimization": {"stage": 3, "overlap_comm": True, "reduce_bucket_size": 5e8},
        "prescale_gradients": True,
    }
    assert before == {"zero_optimization": {"stage": 3, "overlap_comm": True}}
