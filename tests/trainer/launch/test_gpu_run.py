"""The same manifests on an NVIDIA GPU: `make gpu`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from small_job import SmallJob, make_small_job

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

FINETUNE = Path(sys.executable).with_name("finetune")
ONE_GPU = {"replicas": 1, "gpusPerReplica": 1}


def finetune(job: SmallJob, name: str, **spec: Any) -> dict[str, Any]:
    """Run the job without Ray; returns its result."""
    path = job.write(name, **spec)
    command = [str(FINETUNE), "run", str(path), "--launcher", "torchrun", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return next(event for event in events if event["kind"] == "result")


def losses(job: SmallJob, name: str) -> list[float]:
    """The training loss of every step."""
    return [record["loss"] for record in job.metrics(name) if "loss" in record]


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_gpu_gives_the_losses_of_the_cpu_in_float32(zero_stage: int, tmp_path: Path) -> None:
    job = make_small_job(tmp_path)
    stage = {"zeroStage": zero_stage}
    finetune(job, "cpu", deepspeed=stage, workers={"replicas": 1, "gpusPerReplica": 0})
    finetune(job, "gpu", deepspeed=stage, workers=ONE_GPU)
    assert losses(job, "gpu") == pytest.approx(losses(job, "cpu"), rel=1e-4)


@pytest.mark.parametrize("method", [{"type": "LoRA", "lora": {"rank": 4, "alpha": 8}}, {"type": "Full", "lora": None}])
def test_training_in_bf16_on_a_gpu_lowers_the_held_out_loss(method: dict[str, Any], tmp_path: Path) -> None:
    job = make_small_job(tmp_path)
    result = finetune(job, "bf16", method=method, training={"precision": "BF16"}, workers=ONE_GPU)
    assert result["evalLoss"] < result["baseLoss"]


def test_embeddings_of_added_tokens_are_trained_on_a_gpu(tmp_path: Path) -> None:
    job = make_small_job(tmp_path)
    result = finetune(
        job, "added", model={"addedTokens": ["<tool_call>"]}, training={"precision": "BF16"}, workers=ONE_GPU
    )
    assert result["evalLoss"] < result["baseLoss"]


def test_four_bits_on_a_gpu_lower_the_held_out_loss_and_are_merged_into_the_weights_as_published(
    tmp_path: Path,
) -> None:
    pytest.importorskip("bitsandbytes")
    job = make_small_job(tmp_path, hidden_size=64, intermediate_size=128)
    spec: dict[str, Any] = {"method": {"type": "QLoRA"}, "output": {"format": "Merged"}}
    result = finetune(job, "bits", **spec, training={"precision": "BF16"}, workers=ONE_GPU)
    assert result["evalLoss"] < result["baseLoss"]
    check = json.loads((tmp_path / "output" / "bits" / "audit.json").read_text())["mergeCheck"]
    assert check["relativeDifference"] <= check["tolerance"] < check["adapterEffect"]
