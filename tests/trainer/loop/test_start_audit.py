"""What a run says before its first step: the loss it starts from, and whether texts begin and end as they should."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_trainer.audit import loss_warnings, template_warnings
from finetune_trainer.context import StopSignal
from finetune_trainer.data import Row
from finetune_trainer.data.audit import TemplateCheck, check_template
from finetune_trainer.errors import StorageError
from finetune_trainer.report.audit_facts import facts
from loop_runner import Recorder, Train
from made_rows import row_of
from small_job import make_small_job

START, END, TEXT = 1, 2, 7


def row(*documents: list[tuple[int, bool]]) -> Row:
    """Documents in one row; each token with whether it is trained."""
    tokens = [pair for document in documents for pair in document]
    ids = np.array([token for token, _ in tokens], dtype=np.int32)
    labels = np.where([trained for _, trained in tokens], ids, -100).astype(np.int32)
    positions = np.concatenate([np.arange(len(document)) for document in documents]).astype(np.int32)
    return row_of(ids, labels, positions, tuple("x#0" for _ in documents))


def answer(last: int, begin: tuple[int, ...] = (START,)) -> list[tuple[int, bool]]:
    return [*((token, False) for token in begin), (TEXT, False), (TEXT, True), (last, True), (TEXT, False)]


def test_loss_before_training_is_that_of_the_base_on_the_same_records(tmp_path: Path, train: Train) -> None:
    small = make_small_job(tmp_path, records=8)
    data = {"eval": [{"name": "same", "uri": f"file://{tmp_path}/train.jsonl"}]}
    spec: dict[str, Any] = {"workers": {"replicas": 1}, "training": {"maxSteps": 1}, "evaluation": None}
    result, recorder = train(small.write(data=data, **spec))
    (audit,) = recorder.of("audit")
    start: Any = audit["startLoss"]
    assert start["loss"] == pytest.approx(result["baseLoss"], abs=1e-5)
    assert start["base"] == pytest.approx(start["loss"], abs=1e-6), "adapters begin without effect"
    vocabulary = json.loads((tmp_path / "model" / "config.json").read_text())["vocab_size"]
    assert start["guessing"] == pytest.approx(math.log(vocabulary))
    stored = json.loads((tmp_path / "checkpoints" / "default.small" / "audit.json").read_text())
    assert stored["startLoss"] == start
    assert {"startLoss", "template", "coverage", "keptTokenShare"} <= set(stored)


def test_audit_is_stored_before_the_first_step(tmp_path: Path, train: Train) -> None:
    small = make_small_job(tmp_path, records=8)
    spec: dict[str, Any] = {"workers": {"replicas": 1}, "training": {"maxSteps": 1}, "evaluation": None}
    place = tmp_path / "checkpoints" / "default.small" / "audit.json"
    place.mkdir(parents=True)  # no file can take its place
    recorder = Recorder()
    with pytest.raises(StorageError, match=r"audit\.json"):
        train(small.write(**spec), recorder)
    assert recorder.of("progress") == []
    place.rmdir()
    found: list[Any] = []

    def look(event: Mapping[str, object], _: StopSignal) -> None:
        if event["kind"] == "progress":
            found.append(json.loads(place.read_text())["startLoss"])

    _, recorder = train(small.write(**spec), Recorder(react=look))
    assert found == [recorder.of("audit")[0]["startLoss"]]


def test_look_before_training_changes_nothing_that_is_trained(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_small_job(tmp_path, records=24)
    spec: dict[str, Any] = {
        "workers": {"replicas": 1},
        "training": {"maxSteps": 2},
        "method": {"lora": {"dropout": 0.5}},
    }
    _, recorder = train(small.write(**spec), Recorder())
    monkeypatch.setattr("finetune_trainer.build.look_first", lambda *_: {})
    _, again = train(small.write("again", **spec), Recorder())
    assert "startLoss" not in again.of("audit")[0]
    assert [event["loss"] for event in recorder.of("progress")] == [event["loss"] for event in again.of("progress")]


def test_turns_of_a_chat_end_where_generation_stops(tmp_path: Path, train: Train) -> None:
    small = make_small_job(tmp_path)
    _, recorder = train(small.write(workers={"replicas": 1}, training={"maxSteps": 1}))
    (audit,) = recorder.of("audit")
    found: Any = audit["template"]
    assert found["turns"] == found["ended"] == found["texts"] > 100
    assert found["doubled"] == 0
    assert facts(audit)["template"].startswith(f"all {found['turns']} trained parts end with a stop token; none of")


def test_text_that_begins_twice_and_turn_without_an_end_are_counted() -> None:
    rows = [row(answer(END), answer(TEXT)), row(answer(END, (START, START)))]
    found = check_template(rows, START, {END}, max_length=64)
    assert found == TemplateCheck(texts=3, doubled=1, turns=3, ended=2)
    assert check_template(rows, None, {END}, max_length=64).doubled == 0
    doubled, unended = template_warnings(found)
    assert "1 of 3 texts begin with two start tokens" in doubled
    assert "1 of 3 trained parts do not end" in unended
    assert list(template_warnings(TemplateCheck(texts=9, doubled=0, turns=9, ended=9))) == []


def test_part_that_was_cut_off_needs_no_end() -> None:
    cut = row([(START, False), (TEXT, True), (TEXT, True)])
    assert check_template([cut], START, {END}, max_length=3).turns == 0
    assert check_template([cut], START, {END}, max_length=4) == TemplateCheck(texts=1, doubled=0, turns=1, ended=0)


@pytest.mark.parametrize(
    ("loss", "base", "words"),
    [(11.0, 11.0, "the model knows nothing"), (2.0, 1.0, "the adapters change the loss"), (math.nan, None, "knows")],
)
def test_odd_losses_before_training_are_warned_of(loss: float, base: float | None, words: str) -> None:
    (warning,) = loss_warnings({"loss": loss, "base": base, "guessing": 10.0, "tokens": 5})
    assert words in warning


def test_usual_losses_before_training_are_not() -> None:
    assert list(loss_warnings({"loss": 2.001, "base": 2.0, "guessing": 10.0, "tokens": 5})) == []
    assert list(loss_warnings(None)) == []
