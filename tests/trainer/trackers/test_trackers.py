"""Metrics in real trackers, and trackers that do not work."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_trainer.errors import SpecError
from finetune_trainer.preflight import TRACKER_PACKAGES, preflight
from finetune_trainer.spec import MLflow, Trackers, load_job, parse_job
from finetune_trainer.trackers import feed
from finetune_trainer.trackers.base import About, Outcome, numbers
from finetune_trainer.trackers.feed import Feeds, open_feeds
from small_job import SmallJob, make_small_job

RECORDS: list[dict[str, Any]] = [
    {"step": step, "loss": 3.0 / step, "gradNorm": None, "time": 1_790_000_000.0 + step} for step in (1, 2, 3)
]
EVALUATION = {"step": 3, "evalLoss": 1.5, "evalLoss/held-out": 1.5}

BLOCK, FULL, LAST = 32768, 1, 4
"""Of LevelDB's log format: https://github.com/google/leveldb/blob/main/doc/log_format.md"""

TRAINER = """
import subprocess, sys
words = [sys.executable, "-m", "finetune_trainer.trackers.process"]
tracker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
tracker.stdin.write(sys.argv[1].encode() + b"\\n")
tracker.stdin.flush()
tracker.stdout.readline()
print(tracker.pid, flush=True)
tracker.wait()
"""
"""Tells of its tracker's process once that has failed for the first time."""


class Told(list[str]):
    """What trackers said."""

    def __call__(self, text: str) -> None:
        self.append(text)


def opened(folder: Path, told: Told, **chosen: Any) -> Feeds:
    about = About(
        run_id="team-a.bot",
        name="bot",
        config={"spec": {"training": {"learningRate": 0.1}}},
        folder=folder / "work",
        store=f"file://{folder}/checkpoints",
        prefix="team-a.bot",
    )
    return open_feeds(Trackers.model_validate(chosen, strict=False), about, told)


def send(feeds: Feeds, records: list[dict[str, Any]], outcome: Outcome) -> None:
    for record in records:
        feeds.put(record)
    feeds.close(outcome)


def read_wandb(path: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    """The run records and the rows of the history in a file of W&B: protobuf in LevelDB's log format."""
    Record: Any = import_module("wandb.proto.wandb_internal_pb2").Record

    data, place, part, runs, rows = path.read_bytes(), 7, b"", [], []
    while place + 7 <= len(data):
        if (left := BLOCK - place % BLOCK) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (FULL, LAST):
            record: Any = Record.FromString(part)
            part = b""
            if record.HasField("run"):
                runs.append(record.run)
            if record.HasField("history"):
                rows.append(
                    {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                )
    return runs, rows


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits two seconds for its trackers at its end."""
    monkeypatch.setattr(feed, "LAST_WAIT", 2.0)


def test_second_attempt_goes_on_in_the_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(feed, "SHORT_WAIT", 60.0)
    from mlflow.tracking import MlflowClient

    told, uri = Told(), f"file://{tmp_path}/mlruns"
    chosen = {"mlflow": {"uri": uri, "experiment": "bots"}}
    client: Any = MlflowClient(tracking_uri=uri)
    send(opened(tmp_path, told, **chosen), RECORDS[:2], Outcome.STOPPED)
    (first,) = client.search_runs([client.get_experiment_by_name("bots").experiment_id])
    assert first.info.status == "KILLED"
    send(opened(tmp_path, told, **chosen), [*RECORDS[2:], EVALUATION], Outcome.FINISHED)
    (run,) = client.search_runs([client.get_experiment_by_name("bots").experiment_id])
    assert told == []
    assert (run.info.run_id, run.info.status, run.info.run_name) == (first.info.run_id, "FINISHED", "bot")
    assert run.data.params == {"spec.training.learningRate": "0.1"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value, one.timestamp) for one in history] == [
        (record["step"], record["loss"], round(1000 * record["time"])) for record in RECORDS
    ]
    assert run.data.metrics == {"loss": 1.0, "evalLoss": 1.5, "evalLoss.held-out": 1.5}


def test_tensorboard_shows_the_steps_of_all_attempts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "SHORT_WAIT", 60.0)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = Told()
    send(opened(tmp_path, told, tensorBoard={}), RECORDS, Outcome.FAILED)
    again = [{**record, "loss": 9.0} for record in RECORDS[1:]]
    send(opened(tmp_path, told, tensorBoard={}), [*again, EVALUATION], Outcome.FINISHED)
    folder = tmp_path / "checkpoints" / "team-a.bot" / "tensorboard"
    found: Any = EventAccumulator(str(folder)).Reload()
    assert told == []
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [(1, 3.0), (2, 9.0), (3, 9.0)]
    assert [(one.step, one.value) for one in found.Scalars("evalLoss/held-out")] == [(3, 1.5)]


def test_wandb_keeps_a_run_offline_for_its_own_sync(tmp_path: Path) -> None:
    told = Told()
    feeds = opened(tmp_path, told, wandb={"project": "bots", "mode": "Offline"})
    send(feeds, [*RECORDS, EVALUATION], Outcome.FINISHED)
    assert told == []
    (path,) = (tmp_path / "checkpoints" / "team-a.bot" / "wandb").rglob("*.wandb")
    runs, history = read_wandb(path)
    assert [(run.run_id, run.project, run.display_name) for run in runs] == [("team-a.bot", "bots", "bot")]
    losses = [(row["step"], row["loss"]) for row in history if "loss" in row]
    assert losses == [(record["step"], record["loss"]) for record in RECORDS]
    assert [row["evalLoss/held-out"] for row in history if "evalLoss" in row] == [1.5]


def test_tracker_that_refuses_is_told_of_once_and_the_run_is_as_without_it(tmp_path: Path, hurried: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # of nobody, once it is closed
    told = Told()
    feeds = opened(tmp_path, told, mlflow={"uri": f"http://127.0.0.1:{port}"})
    deadline = time.monotonic() + 60
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    send(feeds, RECORDS, Outcome.FINISHED)
    assert len(told) == 2
    assert "it is tried again, and training goes on" in told[0]
    assert "not everything was sent in time" in told[1]


def test_tracker_that_hangs_never_makes_anybody_wait(
    tmp_path: Path, silent_server: int, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST_WAITING", 500)
    told = Told()
    feeds = opened(tmp_path, told, mlflow={"uri": f"http://127.0.0.1:{silent_server}"}, tensorBoard={})
    slowest, began = 0.0, time.monotonic()
    for step in range(1, 20_001):
        before = time.monotonic()
        feeds.put({"step": step, "loss": 1.0, "learningRate": 0.1, "time": 1.0})
        slowest = max(slowest, time.monotonic() - before)
    assert slowest < 1.0
    assert time.monotonic() - began < 20.0
    before = time.monotonic()
    feeds.close(Outcome.FINISHED)
    assert time.monotonic() - before < 15.0, "its two seconds, on a busy machine"
    assert sum("oldest records are left out" in text for text in told) <= 2


def test_tracker_whose_process_is_killed_is_told_of(tmp_path: Path, silent_server: int) -> None:
    told = Told()
    feeds = opened(tmp_path, told, mlflow={"uri": f"http://127.0.0.1:{silent_server}"})
    (only,) = feeds._feeds
    os.kill(only._process.pid, signal.SIGKILL)
    only._process.wait(30)
    send(feeds, RECORDS, Outcome.FINISHED)
    assert len(told) == 1
    assert "its process ended" in told[0]


def test_process_of_a_tracker_that_is_down_ends_with_a_trainer_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    about = {"run_id": "a", "name": "a", "config": {}, "store": f"file://{tmp_path}", "prefix": "a"}
    first = {"tracker": "tensorBoard", "options": {}, "about": {**about, "folder": f"{tmp_path}/file/below"}}
    with subprocess.Popen([sys.executable, "-c", TRAINER, json.dumps(first)], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        tracker = psutil.Process(int(trainer.stdout.readline()))
        trainer.kill()
    tracker.wait(60)


def test_package_that_is_missing_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKER_PACKAGES, "mlflow", "mlflow_that_nobody_has")
    small: SmallJob = make_small_job(tmp_path)
    job = load_job(small.write(trackers={"mlflow": {"uri": "https://mlflow.example.com"}}))
    with pytest.raises(SpecError, match=r"spec\.trackers\.mlflow: needs the package"):
        preflight(job)


def test_only_numbers_are_metrics() -> None:
    record = {"step": 3, "time": 5.0, "loss": None, "evalLoss": 2, "best": True, "note": "x"}
    assert numbers(record) == {"evalLoss": 2.0}


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://me:hunter2@mlflow.example.com", "holds credentials"),
        ("mlflow.example.com", "is no address of a server"),
        ("file://relative/folder", "is no address of a server"),
        ("https://mlflow.example.com?token=hunter2", "has a query"),
    ],
)
def test_address_that_cannot_be_is_refused_here_and_by_the_api_server(tmp_path: Path, uri: str, words: str) -> None:
    manifest = SmallJob(tmp_path).manifest(trackers={"mlflow": {"uri": uri}})
    with pytest.raises(SpecError, match=rf"spec\.trackers\.mlflow\.uri: {words}") as refused:
        parse_job(json.dumps(manifest))
    assert "me:hunter2" not in str(refused.value)
    pattern = MLflow.model_json_schema()["properties"]["uri"]["pattern"]
    assert re.search(pattern, uri) is None
    assert re.search(pattern, "https://mlflow.example.com:5000/team-a") is not None
