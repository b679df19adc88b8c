"""The whole demo in its smallest size, as `make demo` runs it: real `finetune run` processes on two workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from s3_bucket import Bucket

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "demo.py"
EXPORTED = {"adapter_model.safetensors", "adapter_config.json", "audit.json", "metrics.jsonl", "manifest.json"}


def run_demo(*options: str, env: dict[str, str]) -> str:
    """Run the demo; returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(DEMO), "--fast", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "140"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def lines_of(shown: str, start: str) -> list[str]:
    return [line for line in shown.splitlines() if start in line]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_runs_and_a_second_time_only_shows_its_results(tmp_path: Path) -> None:
    first = run_demo("--output", str(tmp_path), env={})
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= EXPORTED
    result = json.loads((tmp_path / "adapter" / "audit.json").read_text())["result"]
    before, after = result["baseLoss"], result["evalLoss"]
    assert after < before
    assert f"{before:.3f}" in lines_of(first, "held-out loss before")[-1]
    assert f"{after:.3f} ({after - before:+.3f})" in lines_of(first, "held-out loss after")[-1]
    assert len(lines_of(first, "what its docstring says")) == 2
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.safetensors")}
    second = run_demo("--output", str(tmp_path), env={})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.safetensors")} == made
    assert lines_of(second, "held-out loss after")[-1] == lines_of(first, "held-out loss after")[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_runs_over_s3(tmp_path: Path, bucket: Bucket) -> None:
    shown = run_demo("--output", str(tmp_path), "--s3", bucket.name, env=bucket.env)
    keys = {item["Key"] for item in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]}
    assert {f"adapter/{name}" for name in EXPORTED} <= keys
    assert not (tmp_path / "adapter").exists()
    result = json.loads((tmp_path / "from-s3" / "adapter" / "audit.json").read_text())["result"]
    assert result["output"] == f"s3://{bucket.name}/adapter"
    assert f"{result['evalLoss']:.3f}" in lines_of(shown, "held-out loss after")[-1]
