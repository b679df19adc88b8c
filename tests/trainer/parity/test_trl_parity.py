"""Our run on two ranks against TRL's SFTTrainer in one process: same model, same global batches, same settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.spec import load_job
from parity.trl_sft import global_batches
from ranks import run_ranks
from small_job import make_small_job

STEPS = 12
TOLERANCE = (
    1e-5  # relative; the largest difference measured over the 12 steps is 2e-7 (float32, other order of summation)
)
TRAINING: dict[str, Any] = {
    "maxSteps": STEPS,
    "learningRate": 0.003,
    "schedule": {"type": "Constant", "warmupRatio": 0},
    "optimizer": {"weightDecay": 0.1, "betas": [0.9, 0.95], "eps": 1e-8},
    "maxGradNorm": 2.0,  # clips some steps and not others
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("packing", ["None", "BestFit"])
def test_loss_and_gradient_norm_of_every_step_lie_on_those_of_trl(packing: str, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, packing)
    check_that_batches_are_ragged(manifest, packing)
    theirs = {"job": str(manifest), "folder": str(tmp_path / "trl")}
    peer = run_ranks(1, "tests/trainer/parity/trl_sft.py:train", theirs, timeout=300)[0]
    ours = {"job": str(manifest), "workdir": str(tmp_path / "work")}
    run_ranks(2, "tests/trainer/ranks_train.py:train", ours, timeout=300)
    steps = history(tmp_path / "work")
    assert len(steps) == STEPS
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]  # it learns, so that equality says something
    assert [step["loss"] for step in steps] == pytest.approx(peer["losses"], rel=TOLERANCE)
    assert [step["gradNorm"] for step in steps] == pytest.approx(peer["norms"], rel=TOLERANCE)
    assert min(peer["norms"]) < TRAINING["maxGradNorm"] < max(peer["norms"])


def write_manifest(folder: Path, packing: str) -> Path:
    """Full fine-tuning in float32 without evaluation: 12 steps of 6 rows, accumulated two by two."""
    small = make_small_job(folder)
    document = small.manifest(training=TRAINING, data={"packing": packing, "eval": []})
    document["spec"]["method"] = {"type": "Full"}
    del document["spec"]["evaluation"]
    path = folder / "parity.yaml"
    path.write_text(json.dumps(document))  # YAML contains JSON
    return path


def check_that_batches_are_ragged(manifest: Path, packing: str) -> None:
    """Equal rows would hide a mean of means, and rows of one document a leak between documents."""
    batches = global_batches(load_job(manifest))
    assert len({sum(row.kept_tokens for row in rows) for rows in batches}) > STEPS // 2
    assert any(len(row.records) > 1 for rows in batches for row in rows) == (packing == "BestFit")


def history(workdir: Path) -> list[dict[str, Any]]:
    """The records that the run kept of its steps."""
    lines = next(workdir.rglob("metrics.jsonl")).read_text().splitlines()
    return [record for line in lines if "loss" in (record := json.loads(line))]
