"""The examples of reward models and classifiers, at a small size: they learn, and what they export says the same."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from finetune_trainer.errors import DataError, Stopped
from loop_runner import Recorder, Train
from small_job import TIMES, make_small_job

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
TOPICS = {
    "billing": ("invoice", "charge", "card"),
    "shipping": ("parcel", "courier", "van"),
    "returns": ("refund", "broken", "swap"),
}
FILLERS = ("my", "the", "is", "was", "not", "here", "please", "today", "again", "about")


def request(number: int) -> tuple[str, str]:
    """A text of some fillers and one word of its topic, and the topic; billing is the most frequent."""
    chosen = random.Random(number)
    label = chosen.choices(list(TOPICS), weights=[4, 2, 1])[0]
    words = [*chosen.choices(FILLERS, k=chosen.randrange(2, 6)), chosen.choice(TOPICS[label])]
    chosen.shuffle(words)
    return " ".join(words), label


def labelled(number: int) -> dict[str, Any]:
    text, label = request(number)
    return {"text": text, "label": label}


def pair(number: int) -> dict[str, Any]:
    """The better answer names the team, the other one another team."""
    text, label = request(number)
    other = random.Random(-number).choice([team for team in TOPICS if team != label])
    said = [[{"role": "assistant", "content": f"That is for {team}."}] for team in (label, other)]
    return {"prompt": [{"role": "user", "content": text}], "chosen": said[0], "rejected": said[1], "margin": number % 2}


@pytest.fixture
def example(tmp_path: Path) -> Any:
    """Writes an example with the addresses and sizes of a small run; `spec` is merged in."""
    job = make_small_job(tmp_path, records=8)

    def write(name: str, record: Any, **spec: Any) -> Path:
        for file, numbers in (("train", range(480)), ("held-out", range(480, 560))):
            lines = [json.dumps(record(number)) + "\n" for number in numbers]
            (tmp_path / f"{name}-{file}.jsonl").write_text("".join(lines))
        document = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
        wanted = document["spec"]
        wanted["model"]["uri"] = f"file://{job.folder}/model"
        wanted["data"]["train"][0]["uri"] = f"file://{tmp_path}/{name}-train.jsonl"
        wanted["data"]["eval"][0]["uri"] = f"file://{tmp_path}/{name}-held-out.jsonl"
        wanted["data"]["maxLength"] = 256
        wanted["checkpoint"] = {"uri": f"file://{tmp_path}/checkpoints", "everySteps": 20, "keepBest": 0}
        wanted["output"]["uri"] = f"file://{tmp_path}/output/{name}"
        wanted["training"] |= {"learningRate": 0.01, "globalBatchSize": 4, "seed": 2, "epochs": None, "maxSteps": 40}
        wanted["evaluation"] = {"everySteps": 20}
        for part, changes in spec.items():
            wanted[part] = wanted.get(part, {}) | changes
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def metrics(folder: Path, name: str) -> list[float]:
    """Values of a held-out metric, in order."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record[key] for record in records for key in record if key == f"eval/held-out/{name}"]


def test_the_classifier_of_the_example_learns_and_its_export_says_the_same(
    example: Any, train: Train, tmp_path: Path
) -> None:
    train(example("classification", labelled))
    folder = tmp_path / "output" / "classification"
    accuracies, scores = metrics(folder, "accuracy"), metrics(folder, "macroF1")
    assert accuracies[0] < 0.7
    assert accuracies[-1] > 0.9
    assert scores[-1] > 0.9
    held_out = [labelled(number) for number in range(480, 560)]
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    answers = classify([record["text"] for record in held_out], batch_size=8)
    right = [answer["label"] == record["label"] for answer, record in zip(answers, held_out, strict=True)]
    assert sum(right) / len(right) == pytest.approx(accuracies[-1])


def test_a_stopped_classifier_goes_on_with_its_head_and_labels(example: Any, train: Train, tmp_path: Path) -> None:
    short = {"training": {"maxSteps": 6}, "evaluation": {"everySteps": 3}}
    folder = tmp_path / "output" / "classification"
    path = example("classification", labelled, **short)
    train(path)
    whole = recorded(folder)
    path.write_text(path.read_text().replace("name: classification", "name: stopped"))
    rmtree(folder)
    with pytest.raises(Stopped):
        train(path, Recorder(stop_after=3))
    train(path)
    assert recorded(folder) == whole
    audit = json.loads((folder / "audit.json").read_text())
    counts = Counter(labelled(number)["label"] for number in range(480))
    assert audit["labels"] == dict(counts)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "| held-out | macroF1 |" in card


def test_other_labels_in_the_data_are_refused_by_name(example: Any, train: Train, tmp_path: Path) -> None:
    derived = {"classification": {"problem": "SingleLabel"}}
    short: dict[str, Any] = {"training": {"maxSteps": 4}, "evaluation": {"everySteps": 4, "samples": 0}}
    start = {"checkpoint": {"uri": f"file://{tmp_path}/checkpoints/default.classification"}}

    def relabelled(number: int) -> dict[str, Any]:
        record = labelled(number)
        return record | {"label": record["label"].replace("returns", "opinion")}

    def second(record: Any, **more: Any) -> Path:
        path: Path = example("classification", record, model=start, **short, **({"objective": derived} | more))
        path.write_text(path.read_text().replace("name: classification", "name: second"))
        return path

    with pytest.raises(Stopped):
        train(example("classification", labelled, **short, objective=derived), Recorder(stop_after=2))
    named = r"classification\.labels: .* billing, opinion, shipping \(3 in all; new: opinion; gone: returns\), and {}"
    trained = "{} was trained with billing, returns, shipping: "
    resumed = named.format(trained.format("checkpoint step .")) + r"put the old files of spec\.data\.train back"
    with pytest.raises(DataError, match=resumed):
        train(example("classification", relabelled, **short, objective=derived))
    recorder = Recorder()
    with pytest.raises(
        DataError, match=named.format(trained.format("step . of .*")) + "train on records with the same"
    ):
        train(second(relabelled), recorder)
    assert "loading the model" not in [event["name"] for event in recorder.of("phase")]
    rmtree(tmp_path / "checkpoints" / "default.second")
    order = ["shipping", "billing", "returns"]
    with pytest.raises(
        DataError, match=r"was trained with billing, returns, shipping: write the same ones in the same"
    ):
        train(second(labelled, objective={"classification": {"labels": order}}))
    result, _ = train(second(labelled, objective={"classification": {"labels": sorted(order)}}))
    assert result["step"] == 4


def recorded(folder: Path) -> list[dict[str, Any]]:
    """What a run recorded of each step and evaluation, without its times."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def test_a_label_without_records_ends_the_run_before_its_first_step(example: Any, train: Train) -> None:
    lacking = {"objective": {"classification": {"labels": [*TOPICS, "praise"]}}}
    with pytest.raises(DataError, match="no training record has the label praise: a classifier cannot learn it; add"):
        train(example("classification", labelled, **lacking))


def test_the_reward_model_of_the_example_learns_and_its_export_says_the_same(
    example: Any, train: Train, tmp_path: Path
) -> None:
    train(example("reward", pair, training={"maxSteps": 60}))
    folder = tmp_path / "output" / "reward"
    accuracies, margins = metrics(folder, "rewards/accuracy"), metrics(folder, "rewards/margin")
    assert accuracies[0] < 0.7
    assert accuracies[-1] > 0.75
    assert margins[-1] > 1
    from peft import PeftModel

    config = AutoConfig.from_pretrained(folder)
    load: Any = AutoModelForSequenceClassification.from_pretrained
    base = load(tmp_path / "model", config=config, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(folder)).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    chosen, rejected = (rewards(model, tokenizer, side) for side in ("chosen", "rejected"))
    assert float((chosen > rejected).float().mean()) == pytest.approx(accuracies[-1])
    assert float((chosen - rejected).mean()) == pytest.approx(margins[-1], rel=1e-4)


@torch.no_grad()
def rewards(model: Any, tokenizer: Any, side: str) -> torch.Tensor:
    found = []
    for number in range(480, 560):
        record = pair(number)
        text = tokenizer.apply_chat_template([*record["prompt"], *record[side]], tokenize=False)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        found.append(model(input_ids=ids).logits[0, 0])
    return torch.stack(found)
