"""`finetune validate` and the command line around it, as separate processes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from launch_job import manifest


def finetune(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from finetune_trainer.cli.app import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write(folder: Path, name: str, data: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path, "good.yaml", manifest())


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    data = manifest()
    data["spec"]["workers"]["replica"] = 2
    data["spec"]["output"]["format"] = "Fulll"
    return write(tmp_path, "bad.yaml", data)


def test_every_mistake_of_every_file_is_one_line_with_its_path_and_what_to_write(good: Path, bad: Path) -> None:
    ran = finetune("validate", good, bad)
    assert ran.returncode == 10
    assert ran.stdout == f"{good}: valid\n"
    lines = ran.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [str(bad), "spec.output.format"],
        [str(bad), "spec.workers.replica"],
    ]
    assert "write Full" in lines[0]
    assert "write replicas" in lines[1]


def test_json_output_is_for_programs(bad: Path, good: Path) -> None:
    ran = finetune("validate", "-o", "json", bad, good)
    assert ran.returncode == 10
    first, second = json.loads(ran.stdout)
    assert first["file"] == str(bad)
    assert not first["valid"]
    assert {"path", "value", "message"} == set(first["problems"][0])
    assert second == {"file": str(good), "valid": True, "problems": []}


def test_valid_manifests_exit_with_0(good: Path) -> None:
    assert finetune("validate", good).returncode == 0


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    ran = finetune("validate", tmp_path / "no.yaml")
    assert ran.returncode == 10
    assert str(tmp_path / "no.yaml") in ran.stderr


def test_validating_loads_neither_torch_nor_ray(good: Path) -> None:
    code = "import sys; from finetune_trainer.cli.app import build\ntry: build()(['validate', sys.argv[1]])\n"
    code += "except SystemExit as e: assert not e.code\n"
    code += "print(sorted({'torch', 'ray', 'transformers', 'boto3', 'deepspeed'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code, str(good)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_the_version_is_the_distributions() -> None:
    ran = finetune("--version")
    assert ran.returncode == 0
    assert ran.stdout == f"finetune {version('finetune-operator')}\n"


def test_wrong_usage_exits_with_2_and_shows_how() -> None:
    ran = finetune("run")
    assert ran.returncode == 2
    assert "finetune run --help" in ran.stderr


def test_replicas_above_the_machine_are_refused_before_anything_starts(tmp_path: Path) -> None:
    data = manifest(replicas=4000)
    data["spec"]["training"]["globalBatchSize"] = 4000
    ran = finetune("run", write(tmp_path, "big.yaml", data))
    assert ran.returncode == 10
    assert ran.stderr.startswith("spec.workers.replicas: this machine has ")
    assert "--gpus 0" in ran.stderr
    assert "(got 4000)" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_unexpected_error_is_one_line_with_the_place_of_its_traceback(good: Path, tmp_path: Path) -> None:
    code = "import finetune_trainer.spec as s; s.load_job = None\nfrom finetune_trainer.cli.app import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "validate", str(good)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    first, second = ran.stderr.splitlines()
    assert first.startswith("unexpected error, TypeError")
    kept = Path(second.removeprefix("the traceback is in "))
    assert "Traceback (most recent call last)" in kept.read_text()
    kept.unlink()
