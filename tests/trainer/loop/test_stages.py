"""The jobs of examples/stages, run one after the other on small data: each begins with what the one before wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
import zstandard
from transformers import AutoModelForCausalLM, AutoTokenizer

from loop_runner import Train
from preference_data import Record, pair, plain_pair, write
from small_job import SmallJob

STAGES = sorted((Path(__file__).parents[3] / "examples" / "stages").glob("*.yaml"))
NAMES = ["product-1-knowledge", "product-2-answers", "product-3-preferences"]
RATES = [0.01, 0.01, 0.002]


def texts(path: Path, numbers: Iterable[int]) -> None:
    """Statements in a Parquet file."""
    path.parent.mkdir(exist_ok=True)
    records = [plain_pair(number) for number in numbers]
    pyarrow.parquet.write_table(pyarrow.table({"text": [one["prompt"] + one["chosen"] for one in records]}), path)


def answered(number: int) -> Record:
    """A question and its answer."""
    one = pair(number)
    return {"messages": one["prompt"] + one["chosen"]}


@pytest.fixture
def stages(small_job: SmallJob) -> list[Path]:
    """The three manifests with every address in one folder, where the data that they name lies, and small numbers."""
    folder = small_job.folder
    texts(folder / "handbook" / "a.parquet", range(80))
    texts(folder / "general-text" / "a.parquet", range(200, 220))
    texts(folder / "handbook-eval" / "a.parquet", range(300, 324))
    for name in ("support", "support-eval", "preferences", "preferences-eval"):
        (folder / name).mkdir()
    lines = "".join(json.dumps(answered(number)) + "\n" for number in range(80)).encode()
    (folder / "support" / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    write(folder / "support-eval" / "a.jsonl", map(answered, range(300, 324)))
    write(folder / "preferences" / "a.jsonl", map(pair, range(80)))
    write(folder / "preferences-eval" / "a.jsonl", map(pair, range(300, 324)))
    return [smaller(small_job, path, rate) for path, rate in zip(STAGES, RATES, strict=True)]


def smaller(small_job: SmallJob, stage: Path, rate: float) -> Path:
    """One of them: places, sizes and machine are changed, and what the job does is not."""
    here = f"file://{small_job.folder}"
    text = stage.read_text().replace("hf://Qwen/Qwen3-8B-Base@main", f"{here}/model")
    for bucket in ("s3://data", "s3://models/team-a", "s3://checkpoints/team-a"):
        text = text.replace(bucket, here)
    document: dict[str, Any] = yaml.safe_load(text)
    spec = document["spec"]
    del spec["training"]["epochs"], spec["storage"]
    spec["method"]["lora"] |= {"rank": 8, "alpha": 16}
    spec["data"]["maxLength"] = 128
    size = {"maxSteps": 16, "globalBatchSize": 8, "microBatchSize": 4, "precision": "FP32"}
    spec["training"] |= size | {"learningRate": rate}
    spec["checkpoint"]["everySteps"] = spec["evaluation"]["everySteps"] = 8
    spec["workers"] = {"replicas": 1, "gpusPerReplica": 0}
    path = small_job.folder / stage.name
    path.write_text(json.dumps(document))
    return path


def lineage(small_job: SmallJob, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((small_job.folder / name / "audit.json").read_text())["lineage"]
    return found


def loss_of_answers(model: Path) -> float:
    """Mean loss of questions with their answers, by transformers alone."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(model)
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    losses = []
    for number in range(300, 324):
        ids = tokenizer.apply_chat_template(answered(number)["messages"], return_tensors="pt")["input_ids"]
        losses.append(float(loaded(input_ids=ids, labels=ids).loss))
    return sum(losses) / len(losses)


@pytest.mark.slow
def test_three_stages_each_learn_from_where_the_one_before_ended_and_end_in_one_plain_model(
    stages: list[Path], small_job: SmallJob, train: Train
) -> None:
    results = [train(path)[0] for path in stages]
    assert all(one["evalLoss"] < 0.95 * one["baseLoss"] for one in results), results
    made_by = [lineage(small_job, name)["base"].get("madeBy", {}).get("run") for name in NAMES]
    assert made_by == [None, f"team-a.{NAMES[0]}", f"team-a.{NAMES[0]}"]
    adapter = lineage(small_job, NAMES[2])["adapter"]
    assert (adapter["use"], adapter["madeBy"]["run"]) == ("Merge", f"team-a.{NAMES[1]}")

    first, last = (small_job.folder / name for name in (NAMES[0], NAMES[2]))
    assert not (last / "adapter_config.json").exists()
    assert loss_of_answers(last) < loss_of_answers(first), "what the second stage taught is in the last one's model"
