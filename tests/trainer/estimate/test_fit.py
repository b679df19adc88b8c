"""What fits, what surely does not, which changes help, and the micro-batch that is chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_trainer.engine.config import deepspeed_config, micro_batch_size, with_micro_batch
from finetune_trainer.estimate import (
    OPT_OUT,
    Hardware,
    ModelShape,
    Setup,
    Verdict,
    device_total,
    estimate,
    find_gpu,
    known_shape,
    refusal,
    settle,
)
from finetune_trainer.estimate.state import count
from finetune_trainer.spec import FineTuneJob, identity, parse_job

GIB = 2**30
H100 = Hardware("H100", 79 * GIB, teraflops=989)


def manifest(**parts: Any) -> FineTuneJob:
    """A job on GPUs for an 8B model; each part is merged into the section of the spec that it is named like."""
    spec: dict[str, Any] = {
        "model": {"uri": "hf://meta-llama/Llama-3.1-8B"},
        "method": {"type": "Full"},
        "objective": {"type": "SFT"},
        "data": {"train": [{"uri": "s3://data/*.jsonl"}], "maxLength": 4096},
        "training": {"maxSteps": 100, "globalBatchSize": 64, "learningRate": 1e-5},
        "deepspeed": {"zeroStage": 2},
        "checkpoint": {"uri": "s3://ckpt/a", "everySteps": 10},
        "output": {"uri": "s3://models/a"},
        "workers": {"replicas": 1, "gpusPerReplica": 1},
    }
    metadata = {"name": "a", "annotations": parts.pop("annotations", {})}
    for section, values in parts.items():
        spec[section] = spec[section] | values
    document = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": spec}
    return parse_job(json.dumps(document))


def llama_8b() -> ModelShape:
    """The model of `manifest`."""
    shape = known_shape("hf://meta-llama/Llama-3.1-8B")
    assert shape is not None
    return shape


def test_full_fine_tuning_of_8b_needs_sixteen_bytes_for_each_parameter() -> None:
    """2 for weights, 12 for master weights and moments, and 4 or 2 for gradients (arXiv:1910.02054, section 3.1)."""
    found = estimate(manifest(), llama_8b(), H100)
    assert found.verdict is Verdict.TOO_LARGE
    assert 16 * 8.03e9 < found.least < 20 * 8.03e9
    assert found.counts.trainable == found.counts.total == 8_030_261_248


def test_what_would_make_it_fit_is_named_and_does() -> None:
    found = estimate(manifest(), llama_8b(), H100)
    assert "method.type: LoRA" in [change.text for change in found.changes]
    lora = estimate(manifest(method={"type": "LoRA"}), llama_8b(), H100)
    assert lora.verdict is Verdict.FITS
    by_text = {change.text: change for change in found.changes}
    assert by_text["deepspeed.offloadOptimizer: CPU"].host > 12 * 8.03e9
    offloaded = manifest(deepspeed={"offloadOptimizer": "CPU"})
    assert estimate(offloaded, llama_8b(), H100).verdict is Verdict.FITS


def test_higher_stages_and_more_ranks_take_less_of_each_device() -> None:
    totals = [
        device_total(llama_8b(), settle(manifest(deepspeed={"zeroStage": stage}), llama_8b(), None, 8))[0]
        for stage in (0, 1, 2, 3)
    ]
    assert totals == sorted(totals, reverse=True)
    by_ranks = [device_total(llama_8b(), settle(manifest(), llama_8b(), None, ranks))[0] for ranks in (2, 4, 8, 16)]
    assert by_ranks == sorted(by_ranks, reverse=True)


def test_a_job_that_cannot_fit_is_refused_with_the_numbers_and_a_remedy() -> None:
    problem = refusal(manifest(), llama_8b(), H100)
    assert problem is not None
    assert problem.path == "spec.workers"
    assert "needs at least 135.0 GiB on each rank" in problem.message
    assert "H100 has 79.0 GiB" in problem.message
    assert "weights 15.0 GiB" in problem.message
    assert "it would fit with" in problem.message
    assert "method.type: LoRA (" in problem.message


def test_only_what_exceeds_the_least_is_refused() -> None:
    tight = Hardware("a GPU", 24 * GIB)
    job = manifest(method={"type": "LoRA"}, training={"microBatchSize": 8, "gradientCheckpointing": "Off"})
    assert estimate(job, llama_8b(), tight).verdict is Verdict.TIGHT
    assert refusal(job, llama_8b(), tight) is None


def test_an_annotation_lets_a_job_start_all_the_same() -> None:
    assert refusal(manifest(annotations={OPT_OUT: "Ignore"}), llama_8b(), H100) is None
    assert refusal(manifest(annotations={OPT_OUT: "Heed"}), llama_8b(), H100) is not None


def test_nothing_is_refused_where_the_memory_is_unknown() -> None:
    assert refusal(manifest(), llama_8b(), Hardware("a GPU")) is None
    assert estimate(manifest(), llama_8b(), Hardware("a GPU")).verdict is Verdict.UNKNOWN


def test_the_micro_batch_that_is_left_out_is_the_largest_that_fits_well() -> None:
    job = manifest(method={"type": "LoRA"})
    chosen = settle(job, llama_8b(), 79 * GIB, 1)
    assert chosen.micro_batch > 1
    assert chosen.micro_batch * chosen.micro_batches == 64
    assert device_total(llama_8b(), chosen)[0] <= 0.85 * 79 * GIB
    more = chosen.with_micro_batch(2 * chosen.micro_batch)
    assert device_total(llama_8b(), more)[0] > 0.85 * 79 * GIB
    smaller = settle(job, llama_8b(), 24 * GIB, 1)
    assert smaller.micro_batch < chosen.micro_batch


def test_it_is_never_more_than_the_rows_of_a_rank() -> None:
    job = manifest(method={"type": "LoRA"}, data={"maxLength": 64}, training={"globalBatchSize": 6})
    assert settle(job, llama_8b(), 79 * GIB, 4).micro_batch == 2
    assert settle(job, llama_8b(), 79 * GIB, 6).micro_batch == 1
    odd = manifest(method={"type": "LoRA"}, data={"maxLength": 64}, training={"globalBatchSize": 63})
    assert settle(odd, llama_8b(), 79 * GIB, 1).micro_batch == 1


def test_a_run_writes_it_out_and_stays_the_same_run() -> None:
    job = manifest(method={"type": "LoRA"})
    settled = with_micro_batch(job, llama_8b(), 79 * GIB, 2)
    assert micro_batch_size(settled, 2) == settle(job, llama_8b(), 79 * GIB, 2).micro_batch > 1
    assert identity(settled) == identity(job)


def test_a_micro_batch_stays_as_it_is_on_a_cpu_and_where_it_is_written_or_nothing_is_known() -> None:
    on_cpu = manifest(method={"type": "LoRA"}, workers={"gpusPerReplica": 0})
    assert micro_batch_size(with_micro_batch(on_cpu, llama_8b(), 79 * GIB, 1), 1) == 1
    job = manifest(method={"type": "LoRA"})
    assert with_micro_batch(job, llama_8b(), None, 1) is job
    assert with_micro_batch(job, None, 79 * GIB, 1) is job
    written = manifest(training={"microBatchSize": 4})
    assert with_micro_batch(written, llama_8b(), 79 * GIB, 1) is written


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_buckets_are_those_of_the_engine(stage: int) -> None:
    overrides = {"zero_optimization.reduce_bucket_size": "2e8"}
    for job in (
        manifest(deepspeed={"zeroStage": stage}),
        manifest(deepspeed={"zeroStage": stage, "overrides": overrides}),
    ):
        zero = deepspeed_config(job, 1, on_gpu=True)["zero_optimization"]
        setup = Setup.of(job, 1, on_gpu=True)
        assert setup.reduce_bucket == int(float(zero["reduce_bucket_size"]))
        assert setup.persistence == zero.get("stage3_param_persistence_threshold", setup.persistence)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB"),
        ("A100", "A100-80GB"),
        ("Tesla-T4", "T4"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("h200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
    ],
)
def test_accelerators_are_known_by_their_products(product: str, name: str) -> None:
    found = find_gpu(product)
    assert found is not None
    assert found.name == name


def test_others_are_not() -> None:
    assert find_gpu("Quadro-P400") is None


def test_time_follows_from_steps_speed_and_ranks() -> None:
    """6 operations for each parameter and token, and 2 more to compute activations again."""
    job = manifest(workers={"gpusPerReplica": 8}, deepspeed={"zeroStage": 3}, data={"maxLength": 1024})
    found = estimate(job, llama_8b(), H100).work
    assert found.steps == 100
    assert found.tokens_per_step == 64 * 1024
    assert found.seconds_per_step == pytest.approx(8 * 7.5e9 * 64 * 1024 / (989e12 * 0.35 * 8), rel=0.05)
    assert found.seconds_per_step is not None
    assert found.seconds == pytest.approx(100 * found.seconds_per_step)


def test_steps_of_epochs_follow_from_the_rows_of_the_data() -> None:
    job = manifest(training={"epochs": 3, "maxSteps": None}, method={"type": "LoRA"})
    assert estimate(job, llama_8b(), H100).work.steps is None
    assert estimate(job, llama_8b(), H100, rows=10 * 64).work.steps == 30


def test_a_checkpoint_has_twelve_bytes_for_each_trained_parameter_and_a_price() -> None:
    found = estimate(manifest(), llama_8b(), H100)
    assert found.checkpoint == 12 * 8_030_261_248
    assert found.cost.kept == 3  # two that are kept, and one on its way
    assert found.cost.dollars_per_month == pytest.approx(3 * 96.4 * 0.023, rel=0.01)
    on_disk = estimate(manifest(checkpoint={"uri": "file:///ckpt"}), llama_8b(), H100)
    assert on_disk.cost.dollars_per_month is None


def test_without_logits_and_output_embedding_a_model_takes_less() -> None:
    setup = settle(manifest(training={"microBatchSize": 4}), llama_8b(), None, 1)
    scoring = replace(setup, labels=1)
    assert count(llama_8b(), setup).total - count(llama_8b(), scoring).total == (128_256 - 1) * 4096
    assert device_total(llama_8b(), scoring)[0] < device_total(llama_8b(), setup)[0]


def test_what_is_offloaded_has_to_fit_into_the_host() -> None:
    job = manifest(deepspeed={"offloadOptimizer": "CPU"})
    for host, verdict in ((64, Verdict.TIGHT), (512, Verdict.FITS)):
        found = estimate(job, llama_8b(), replace(H100, host_memory=host * GIB))
        assert found.verdict is verdict
        assert ("a worker's pod has 64.0 GiB" in found.shortage) == (verdict is Verdict.TIGHT)
        assert found.host_needed > 12 * 8.03e9
