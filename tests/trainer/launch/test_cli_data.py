"""`finetune data report` on a real manifest, with a real tokenizer and no model weights."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from finetune_trainer.cli import app as command_line
from finetune_trainer.cli.data import app
from small_data import conversation, make_tokenizer, sentence, write_records

SECRET = "xylophone quartz"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """41 records, one of them there twice and one bad; a held-out record is trained on; a model without weights."""
    monkeypatch.setenv("FINETUNE_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("COLUMNS", "200")
    make_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    secret = {"messages": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": sentence(5, 20)}]}
    records: list[Any] = [secret, *(conversation(i) for i in range(38)), secret, {"messages": SECRET}]
    write_records(tmp_path / "train.jsonl", records)
    write_records(tmp_path / "held-out.jsonl", [secret, *(conversation(i) for i in range(100, 110))])
    return write(tmp_path, manifest(tmp_path))


def manifest(folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "small"},
        "spec": {
            "model": {"uri": f"file://{folder}/model"},
            "method": {"type": "LoRA", "lora": {"rank": 4, "alpha": 8}},
            "objective": {"type": "SFT"},
            "data": {
                "train": [{"uri": "file://./train.jsonl"}],
                "eval": [{"name": "held-out", "uri": "file://./held-out.jsonl"}],
                "maxLength": 96,
            },
            "training": {"maxSteps": 12, "globalBatchSize": 6, "learningRate": 0.005},
            "checkpoint": {"uri": "file://./checkpoints", "everySteps": 4},
            "evaluation": {"everySteps": 6},
            "output": {"uri": "file://./output"},
            "workers": {"replicas": 1, "gpusPerReplica": 0},
        },
    }


def write(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "job.yaml"
    path.write_text(json.dumps(document))
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_json_has_all_numbers_and_no_content(job: Path) -> None:
    ran = invoke(job, "--output", "json")
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    total = found["train"]["total"]
    assert (total["records"], total["read"], total["bad"], total["exactDuplicates"]) == (41, 41, 1, 1)
    assert found["train"]["sources"][0]["badRecords"][0]["record"] == f"file://{job.parent}/train.jsonl#41"
    assert found["train"]["whole"]["steps"] == -(-found["train"]["rows"] // 6)
    assert found["eval"][0]["overlap"]["exact"] == 1
    assert found["rules"]["nearThreshold"] == 0.8
    assert SECRET not in ran.output
    assert [path.suffix for path in (job.parent / "checkpoints" / "index").iterdir()] == [".json"] * 2


def test_text_shows_tables_a_histogram_and_what_to_look_at(job: Path) -> None:
    ran = invoke(job)
    assert ran.exit_code == 0, ran.output
    assert "train: 41 records read" in ran.stdout
    assert "█" in ran.stdout
    assert "1 of 41 records cannot be used, more than 0.001 of them (spec.data.badRecords.maxRatio)" in ran.stdout
    assert "1 exact and 0 near duplicates of training records" in ran.stdout
    assert f"duplicate: file://{job.parent}/train.jsonl#40 of file://{job.parent}/train.jsonl#1\n" in ran.stdout
    assert "estimates" not in ran.stdout
    assert SECRET not in ran.output


def test_a_sample_says_that_numbers_are_estimates(job: Path) -> None:
    ran = invoke(job, "--sample", "10")
    assert "train: 10 of 41 records read" in ran.stdout
    assert "numbers of the whole are estimates" in ran.stdout
    limited = json.loads(invoke(job, "--limit", "30", "-o", "json").stdout)
    assert (limited["train"]["total"]["read"], limited["train"]["estimated"]) == (30, True)
    assert not limited["eval"][0]["estimated"]


def test_errors_are_explained_like_those_of_other_commands(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("data", "finetune_trainer.cli.data:app", command_line.GROUP)
    monkeypatch.setattr(command_line, "entry_points", lambda group: [point])
    document = manifest(job.parent)
    document["spec"]["data"]["train"][0]["uri"] = "file://./missing.jsonl"
    with pytest.raises(SystemExit) as ended:
        command_line.build()(["data", "report", str(write(job.parent, document))])
    assert ended.value.code == 11
    assert capsys.readouterr().err.startswith("BadData: spec.data.train[0].uri: no file matches")


def test_neither_ray_nor_deepspeed_is_loaded(job: Path) -> None:
    code = "import sys; from finetune_trainer.cli.data import app\ntry: app(['report', sys.argv[1], '-o', 'json'])\n"
    code += "except SystemExit as e: assert not e.code\n"
    code += "print(sorted({'ray', 'deepspeed', 'peft'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code, str(job)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
