"""`finetune prepare`, and runs that read what it stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from finetune_trainer.cli.app import Options, reporting
from finetune_trainer.cli.prepare import prepare
from finetune_trainer.errors import Stopped
from finetune_trainer.store import open_store
from loop_runner import Recorder, Train
from s3_bucket import Bucket
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_WORKDIR", str(tmp_path / "work"))


def run_prepare(*arguments: str) -> Result:
    app = typer.Typer()
    app.command("prepare")(reporting(prepare, Options()))
    return CliRunner().invoke(app, list(arguments))


def forms_used(recorder: Recorder) -> list[str]:
    details = [str(event.get("detail", "")) for event in recorder.of("phase")]
    return [detail for detail in details if "token form" in detail]


def test_a_prepared_run_trains_on_what_it_would_have_read(train: Train, small_job: SmallJob) -> None:
    train(small_job.write("raw", **ONE_RANK))
    prepared = small_job.write("prepared", **ONE_RANK)
    done = run_prepare(str(prepared))
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert "train.jsonl: 160 records, " in lines[0]
    assert all(" published in file://" in line for line in lines)
    again = run_prepare(str(prepared)).stdout.splitlines()
    assert [line.replace("was there already", "published") for line in again] == lines
    _, recorder = train(prepared)
    used = forms_used(recorder)
    assert len(used) == 1
    assert used[0].startswith(f"2 of 2 sources in their token form: file://{small_job.folder}/train.jsonl (")
    assert small_job.metrics("prepared") == small_job.metrics("raw")
    audit = recorder.of("audit")[0]
    assert audit["sources"][0]["tokenForm"] in lines[0]  # type: ignore[index]


def pair(number: int) -> dict[str, Any]:
    return {"prompt": f"Say {number}: ", "chosen": f"here is {number}", "rejected": f"no {number % 7}"}


def labelled(number: int) -> dict[str, Any]:
    return {"text": f"request {number} of {number % 5}", "label": ("low", "mid", "high")[number % 3]}


@pytest.mark.parametrize(("objective", "record"), [("DPO", pair), ("Classification", labelled)])
def test_pairs_and_labels_train_from_the_token_form_as_from_their_records(
    train: Train, small_job: SmallJob, objective: str, record: Callable[[int], dict[str, Any]]
) -> None:
    sources = []
    for name, numbers in (("train", range(40)), ("eval", range(40, 52))):
        path = small_job.folder / f"{objective}-{name}.jsonl"
        path.write_text("".join(json.dumps(record(number)) + "\n" for number in numbers))
        sources.append(f"file://{path}")
    spec: dict[str, Any] = ONE_RANK | {
        "objective": {"type": objective},
        "data": {"train": [{"uri": sources[0]}], "eval": [{"name": "held-out", "uri": sources[1]}]},
        "training": {"maxSteps": 6},
        "evaluation": {"everySteps": 3},
    }
    raw, first = train(small_job.write("raw", **spec))
    prepared = small_job.write("prepared", **spec)
    done = run_prepare(str(prepared))
    assert (done.exit_code, done.stderr) == (0, "")
    result, recorder = train(prepared)
    assert (forms_used(first), forms_used(recorder)[0].split(":")[0]) == ([], "2 of 2 sources in their token form")
    assert small_job.metrics("prepared") == small_job.metrics("raw")
    assert (result["loss"], result["evalMetrics"]) == (raw["loss"], raw["evalMetrics"])


def test_a_run_that_began_on_the_sources_goes_on_in_the_token_form(train: Train, small_job: SmallJob) -> None:
    train(small_job.write("whole", **ONE_RANK))
    stopped = small_job.write("stopped", **ONE_RANK)
    with pytest.raises(Stopped):
        train(stopped, Recorder(stop_after=5))
    assert run_prepare(str(stopped)).exit_code == 0
    _, recorder = train(stopped)
    assert len(forms_used(recorder)) == 1
    assert small_job.metrics("stopped") == small_job.metrics("whole")


def test_a_form_elsewhere_serves_a_run(train: Train, small_job: SmallJob, bucket: Bucket) -> None:
    job = small_job.write("elsewhere", **ONE_RANK)
    done = run_prepare(str(job), "--to", f"{bucket.uri}/shared")
    assert f" published in {bucket.uri}/shared/tokens/" in done.stdout
    assert any(info.key.endswith(".tokens") for info in open_store(f"{bucket.uri}/shared").list())
    _, recorder = train(job)
    assert len(forms_used(recorder)) == 1


def test_data_that_is_not_there_is_named(small_job: SmallJob) -> None:
    job = small_job.write(data={"train": [{"uri": f"file://{small_job.folder}/none.jsonl"}]})
    done = run_prepare(str(job))
    assert done.exit_code == 11
    assert "spec.data.train[0].uri: no file matches" in done.stderr
