"""`finetune harness`: local tasks on a job's base and exported model, with lm-evaluation-harness itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_models
from finetune_trainer.cli.harness import harness, model_arguments
from finetune_trainer.cli.output import Output
from finetune_trainer.errors import DataError
from finetune_trainer.spec import load_job
from small_job import make_small_job

FULL = {"method": {"type": "Full", "lora": None}, "output": {"format": "Full"}}
QUESTIONS = [("one and two make", " 3.", " 4."), ("two and two make", " 5.", " 4."), ("six and one make", " 7.", " 2.")]


def write_task(folder: Path) -> Path:
    """Which of two answers is likelier, for three questions."""
    folder.mkdir()
    records = [{"question": q, "choices": [a, b], "answer": 0} for q, a, b in QUESTIONS]
    (folder / "sums.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: '{folder}/sums.jsonl'}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: '{{answer}}'\ntarget_delimiter: ''\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\nnum_fewshot: 0\n"
    )
    return folder


@torch.no_grad()
def accuracy(folder: Path) -> float:
    """The share of questions whose first answer is likelier, with nothing of the harness."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def likelihood(question: str, answer: str) -> float:
        start = len(tokenizer(question)["input_ids"])
        ids = torch.tensor([tokenizer(question + answer)["input_ids"]])
        logs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return float(sum(logs[at - 1, ids[0, at]] for at in range(start, ids.shape[1])))

    right = [likelihood(q, a) > likelihood(q, b) for q, a, b in QUESTIONS]
    return sum(right) / len(right)


@pytest.mark.slow
def test_local_tasks_are_run_on_both_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    job = make_small_job(tmp_path)
    path = job.write("small", **FULL)
    with pytest.raises(DataError, match="no model was exported to"):
        model_arguments(load_job(path))
    exported = tmp_path / "output" / "small"
    vocabulary = len(AutoTokenizer.from_pretrained(tmp_path / "model"))
    tiny_models.save("llama", exported, seed=5, vocab_size=vocabulary)
    AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(exported)
    harness(path, ["sums"], write_task(tmp_path / "tasks"), output=Output.JSON)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == {
        "base": {"sums": {"acc,none": pytest.approx(accuracy(tmp_path / "model"))}},
        "tuned": {"sums": {"acc,none": pytest.approx(accuracy(exported))}},
    }


def test_an_adapter_is_put_on_the_model_that_it_was_trained_for(tmp_path: Path) -> None:
    job = make_small_job(tmp_path)
    folder = tmp_path / "output" / "small"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    local, hub = (
        job.write("small"),
        job.write("hub", model={"uri": "hf://org/name@v2"}, output={"uri": f"file://{folder}"}),
    )
    base = {"pretrained": f"{tmp_path}/model"}
    assert model_arguments(load_job(local)) == {"base": base, "tuned": base | {"peft": str(folder)}}
    base = {"pretrained": "org/name", "revision": "v2"}
    assert model_arguments(load_job(hub)) == {"base": base, "tuned": base | {"peft": str(folder)}}
    with pytest.raises(DataError, match=r"spec\.model\.uri: s3://models/a is not on this machine"):
        model_arguments(load_job(job.write("far", model={"uri": "s3://models/a"})))


def test_a_model_that_scores_texts_is_asked_no_tasks(tmp_path: Path) -> None:
    job = make_small_job(tmp_path)
    with pytest.raises(DataError, match=r"spec\.objective\.type: Classification trains a model that scores texts"):
        model_arguments(load_job(job.write("small", objective={"type": "Classification"})))
