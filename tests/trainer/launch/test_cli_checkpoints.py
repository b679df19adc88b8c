"""`finetune checkpoints`: what a run has committed, from a manifest or an address, in a real bucket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_trainer.cli.checkpoints import checkpoints
from finetune_trainer.errors import StorageError
from finetune_trainer.store import Checkpoint, Identity, Quarantine, RunLog, Writer, open_store
from launch_job import manifest
from s3_bucket import Bucket

RUN = "default.tiny"


def run(*words: object) -> str:
    """What a command prints; raises what it raises."""
    outcome = CliRunner().invoke(checkpoints, [str(word) for word in words])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def refused(*words: object) -> str:
    """What a command that is used wrongly says."""
    outcome = CliRunner().invoke(checkpoints, [str(word) for word in words])
    assert outcome.exit_code == 2, outcome.output
    return " ".join(outcome.output.replace("│", " ").split())


def save(writer: Writer, step: int, loss: float, parent: Checkpoint | None = None) -> Checkpoint:
    prefix = writer.new_checkpoint(step)
    refs = [writer.write(prefix, name, f"{name} of {step}".encode()) for name in ("a.safetensors", "b.safetensors")]
    body: dict[str, Any] = {
        "engine": {"world_size": 2, "zero_stage": 2, "tensors": {}},
        "progress": {"loss": 2.5, "epoch": 0.5, "tokens": 100 * step, "data": {"epoch": 0}},
        "model": {"weights": "w"},
        "dataset": "d",
        "metrics": {"evalLoss": loss},
    }
    return writer.commit(step, parent.seq if parent else None, refs, body)


@pytest.fixture
def log(bucket: Bucket) -> RunLog:
    """A run with commits of the steps 10, 20 and 30 in a bucket; 20 is the best."""
    found = RunLog(open_store(f"{bucket.uri}/ckpt"), RUN)
    writer = found.claim(Identity(hash="0" * 64))
    parent = None
    for step, loss in ((10, 1.9), (20, 1.5), (30, 1.7)):
        parent = save(writer, step, loss, parent)
    return found


@pytest.fixture
def job(log: RunLog, bucket: Bucket, tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(manifest(checkpoint={"uri": f"{bucket.uri}/ckpt", "everySteps": 1})))
    return path


def test_a_list_says_which_are_latest_best_pinned_and_quarantined(log: RunLog, job: Path) -> None:
    log.editor().quarantine(log.checkpoints()[0], "flipped")
    run("pin", job, "best")
    rows = json.loads(run("list", job, "-o", "json"))
    assert [(row["seq"], row["step"], row["latest"], row["best"]) for row in rows] == [
        (2, 10, False, False),
        (3, 20, False, True),
        (4, 30, True, False),
    ]
    assert [(row["pinned"], row["quarantined"]) for row in rows] == [(False, True), (True, False), (False, False)]
    lines = run("list", job).splitlines()
    assert lines[2].split()[0] == "3" and lines[2].endswith("best pinned")
    run("unpin", job, "step:20")
    assert log.history().pinned == frozenset()


def test_a_run_is_found_by_its_folder_by_its_root_and_by_its_id(log: RunLog, bucket: Bucket) -> None:
    root = f"{bucket.uri}/ckpt"
    for words in ((log.uri,), (root,), (root, "--run", RUN)):
        assert len(json.loads(run("list", *words, "-o", "json"))) == 3
    RunLog(open_store(root), "team.other").claim(Identity(hash="1" * 64))
    assert f"--run {RUN} or --run team.other" in refused("list", root)
    assert "there is no run at" in refused("list", f"{bucket.uri}/nothing/here")


def test_everything_of_one_checkpoint_is_shown(log: RunLog, job: Path) -> None:
    facts = json.loads(run("show", job, "step:20", "-o", "json"))
    assert (facts["parent"], facts["worldSize"], facts["zeroStage"], facts["dataset"]) == (2, 2, 2, "d")
    assert [file["key"] for file in facts["files"]] == [ref.key for ref in log.journal.checkpoint(3).objects]
    assert log.journal.checkpoint(4).objects[0].key in run("show", job)
    assert "there are 2 (step 10), 3 (step 20), 4 (step 30)" in refused("show", job, "17")


def test_damage_is_named_with_what_was_expected_and_set_aside_when_asked(log: RunLog, job: Path) -> None:
    victim = log.journal.checkpoint(3).objects[1]
    log.journal.store.put(victim.key, b"b of 21")
    with pytest.raises(StorageError, match=r"1 of 3 checkpoints of .* are damaged: add --quarantine"):
        run("verify", job)
    with pytest.raises(StorageError, match=r"1 of 1 checkpoints of .* are damaged: set aside"):
        run("verify", job, "3", "--quarantine")
    (aside,) = [entry for entry in log.entries() if isinstance(entry, Quarantine)]
    assert victim.key in aside.reason
    assert "checkpoint 4 (step 30): whole" in run("verify", job, "latest")


def test_one_is_removed_copied_and_what_was_left_over_is_swept(log: RunLog, job: Path, tmp_path: Path) -> None:
    assert "removed" in run("rm", job, "2")
    with pytest.raises(StorageError, match="the newest good one"):
        run("rm", job, "latest")
    run("copy", job, "best", f"file://{tmp_path / 'kept'}")
    assert [row["step"] for row in json.loads(run("list", f"file://{tmp_path / 'kept'}", "-o", "json"))] == [20]
    old = log.writer(log.history().attempt, log.history().writer)
    left = old.write(old.new_checkpoint(40), "half.safetensors", b"half")
    log.claim(Identity(hash="0" * 64))
    folder = left.key.rpartition("/")[0]
    assert folder in run("sweep", job)
    assert folder in run("sweep", job, "--delete")
    assert run("sweep", job) == ""
