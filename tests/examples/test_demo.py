"""The whole demo in its smallest size, as `make demo` runs it: real `finetune run` processes on two workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from answers import held_out_questions
from s3_bucket import Bucket

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEMO = EXAMPLES / "demo" / "demo.py"
EXPORTED = {"adapter_model.safetensors", "adapter_config.json", "audit.json", "metrics.jsonl", "manifest.json"}


def run_demo(*options: str, env: dict[str, str]) -> str:
    """Run the demo; returns what it printed."""
    return succeed([sys.executable, str(DEMO), "--fast", *options], env)


def succeed(command: list[str], env: dict[str, str]) -> str:
    """Run a command to its good end; returns what it printed."""
    done = subprocess.run(
        command,
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


TAKES_ITS_TIME = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(15))
print("ready", flush=True)
signal.pause()
"""
WAITS = """
import subprocess, sys
from demo import ended
sys.exit(ended(subprocess.Popen([sys.executable, "-c", sys.argv[1]])))
"""


def test_ctrl_c_leaves_the_end_to_the_run() -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-c", WAITS, TAKES_ITS_TIME],
        env=os.environ | {"PYTHONPATH": str(DEMO.parent)},
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "ready\n"
    os.killpg(waiting.pid, signal.SIGINT)
    assert waiting.wait() == 15


def test_one_question_is_answered_by_a_sentence_and_one_by_a_list(tmp_path: Path) -> None:
    pairs = [("Q1", "One."), ("Q2", "Two."), ("Q3", "- `x`: Three."), ("Q4", "- `y`: Four.")]
    chats = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    assert held_out_questions(tmp_path / "chat.jsonl") == [pairs[0], pairs[2]]


@pytest.mark.slow
@pytest.mark.timeout(900)
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


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_demo_runs_over_s3_and_leaves_a_bucket_for_the_quickstart(tmp_path: Path, bucket: Bucket) -> None:
    shown = run_demo("--output", str(tmp_path), "--s3", bucket.name, env=bucket.env)
    assert {f"adapter/{name}" for name in EXPORTED} <= keys_of(bucket)
    assert not (tmp_path / "adapter").exists()
    result = json.loads((tmp_path / "from-s3" / "adapter" / "audit.json").read_text())["result"]
    assert result["output"] == f"s3://{bucket.name}/adapter"
    assert f"{result['evalLoss']:.3f}" in lines_of(shown, "held-out loss after")[-1]
    manifest = tmp_path / "quickstart.yaml"
    manifest.write_text((EXAMPLES / "quickstart.yaml").read_text().replace("s3://demo/", f"s3://{bucket.name}/"))
    here = {f"FINETUNE_{name}": str(tmp_path / "quickstart") for name in ("STATE_DIR", "WORKDIR")}
    finetune = str(Path(sysconfig.get_path("scripts")) / "finetune")
    succeed([finetune, "run", str(manifest), "--launcher", "torchrun"], bucket.env | here)
    assert {f"quickstart/adapter/{name}" for name in EXPORTED} <= keys_of(bucket)


def keys_of(bucket: Bucket) -> set[str]:
    return {item["Key"] for item in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]}
