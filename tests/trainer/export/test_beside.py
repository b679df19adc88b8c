"""What lies beside the weights: where generation stops, what the run says of itself, where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from transformers import AutoTokenizer, GenerationConfig

import tiny_models
from finetune_trainer.data.ends import trained_ends
from finetune_trainer.export.adapter import base_reference
from finetune_trainer.export.card import model_card
from finetune_trainer.export.lineage import lineage
from finetune_trainer.export.plot import loss_plot
from finetune_trainer.export.result import summarise
from finetune_trainer.export.tokens import export_tokenizer
from finetune_trainer.spec import Format, parse_job
from finetune_trainer.state import Best, Progress
from finetune_trainer.store import Checkpoint
from small_data import CHATML, conversation, index_of, make_tokenizer, source, write_records
from small_job import SmallJob

RECORDS: list[dict[str, Any]] = [
    {"step": 0, "evalLoss": 4.0, "evalLoss/a": 4.0},
    {"step": 1, "loss": 3.5, "tokens": 100, "seconds": 2.0, "dataSeconds": 0.5},
    {"step": 2, "loss": None, "tokens": 300, "seconds": 2.0, "dataSeconds": 0.0},
    {"step": 2, "evalLoss": 2.5, "evalLoss/a": 2.5},
    {"step": 3, "loss": 2.0, "tokens": 500, "seconds": 1.0, "dataSeconds": 0.5},
    {"step": 3, "evalLoss": 3.0, "evalLoss/a": 3.0},
]
PROGRESS = Progress(
    step=3,
    tokens=500,
    kept_tokens=200,
    loss=2.0,
    base={"a": 4.0},
    base_mean=4.0,
    best=Best(step=2, loss=2.5),
    skipped=1,
)


def test_generation_stops_at_the_trained_turns_end_and_where_the_base_did(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(CHATML, special=("<|im_start|>", "<|im_end|>", "<|endoftext|>"), eos="<|endoftext|>")
    end, eos = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"eos_token_id": 2}))
    settings = {"eos_token_id": 9, "temperature": 0.6, "_from_model_config": True}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(settings))
    export_tokenizer(tokenizer, {Format.MESSAGES}, tmp_path / "base", tmp_path / "out", scores=False)
    found = GenerationConfig.from_pretrained(tmp_path / "out")
    assert found.eos_token_id == [end, eos, 9]
    assert found.temperature == 0.6
    assert found.pad_token_id == tokenizer.pad_token_id
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == CHATML


def test_generation_stops_at_the_turns_end_of_messages_in_prompt_and_completion(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(CHATML, special=("<|im_start|>", "<|im_end|>", "<|endoftext|>"), eos="<|endoftext|>")
    question, answer = conversation(1)["messages"]
    path = write_records(tmp_path / "a.jsonl", [{"prompt": [question], "completion": [answer]}])
    ends = trained_ends(tokenizer, index_of(source(path)).rendered_formats)
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|im_end|>", "<|endoftext|>"]


def test_plain_text_ends_with_the_end_of_text_alone() -> None:
    tokenizer = make_tokenizer(None)
    assert trained_ends(tokenizer, {Format.TEXT}) == [tokenizer.eos_token_id]


def test_result_is_that_of_the_exported_step() -> None:
    result = summarise(PROGRESS, RECORDS, exported_step=2)
    assert (result["evalLoss"], result["evalLosses"], result["baseLoss"]) == (2.5, {"a": 2.5}, 4.0)
    assert (result["step"], result["exportedStep"], result["best"]) == (3, 2, {"step": 2, "loss": 2.5})
    assert result["tokensPerSecond"] == 100.0
    assert result["dataWaitShare"] == 0.2
    assert result["keptTokenShare"] == 0.4
    assert result["verdict"] == "Improved"


def test_result_without_evaluation_or_with_a_loss_that_is_no_number_is_json() -> None:
    result = summarise(PROGRESS.model_copy(update={"loss": float("nan"), "base_mean": None}), RECORDS[1:3], 3)
    assert (result["loss"], result["evalLoss"], result["verdict"]) == (None, None, None)
    json.dumps(result, allow_nan=False)


def test_tuned_model_that_is_worse_is_called_so() -> None:
    assert summarise(PROGRESS.model_copy(update={"base_mean": 2.0}), RECORDS, 3)["verdict"] == "NotImproved"


@pytest.mark.parametrize(
    ("uri", "reference"),
    [
        ("file:///models/llama", ("/models/llama", None)),
        ("hf://org/llama@v2", ("org/llama", "v2")),
        ("hf://org/llama", ("org/llama", None)),
        ("s3://models/llama", ("s3://models/llama", None)),
    ],
)
def test_adapter_names_its_base_as_peft_looks_it_up(uri: str, reference: tuple[str, str | None]) -> None:
    assert base_reference(uri) == reference


def test_card_has_losses_lineage_and_a_manifest_without_credentials(tmp_path: Path) -> None:
    model = tiny_models.save("llama", tmp_path / "hub" / "snapshots" / "0123456789abcdef")
    manifest = SmallJob(tmp_path).manifest(storage={"secretRef": {"name": "team-a-s3"}})
    manifest["spec"]["model"]["uri"] = "hf://org/llama@v2"
    job = parse_job(json.dumps(manifest))
    head = {"seq": 7, "attempt": 1, "writer": "0" * 16, "time": "2026-01-02T03:04:05+00:00", "kind": "checkpoint"}
    body: dict[str, Any] = {"step": 2, "parent": None, "identity": "a", "objects": [], "body": {}}
    entry = TypeAdapter(Checkpoint).validate_json(json.dumps(head | body))
    origin = lineage(job, model, "abc123", entry, "s3://ckpt/run", {"torch": "2.15.0"})
    result = summarise(PROGRESS, RECORDS, 2) | {"trainableShare": 0.01, "quarantined": 3}
    card = model_card(job, result, origin, plotted=True)

    front = YAML(typ="safe").load(card.split("---\n")[1])
    assert (front["base_model"], front["library_name"]) == ("org/llama", "peft")
    assert "| a | 4.0000 (perplexity 54.6) | 2.5000 (perplexity 12.18) |" in card
    for fact in (origin["base"]["sha256"], "abc123", "s3://ckpt/run", "log entry 7", "torch 2.15.0", "eval.jsonl"):
        assert fact in card
    assert origin["base"]["revision"] == "0123456789abcdef"
    assert "`hf://org/llama@v2`, commit `0123456789abcdef`, " in card
    assert "team-a-s3" not in card + json.dumps(origin)
    assert parse_job(json.dumps(origin["job"])).spec.training == job.spec.training


def test_plot_is_an_svg_with_one_point_per_finite_loss() -> None:
    plot = loss_plot(RECORDS)
    assert plot is not None
    lines = ElementTree.fromstring(plot).findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 3]


def test_plot_of_a_long_run_is_thinned_and_of_a_short_one_left_out() -> None:
    plot = loss_plot([{"step": step, "loss": 1.0 / step} for step in range(1, 5001)])
    assert plot is not None
    assert len(plot) < 20_000
    assert loss_plot(RECORDS[:2]) is None
