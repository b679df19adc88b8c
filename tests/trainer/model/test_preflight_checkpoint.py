"""What is found out of the checkpoint that a run starts from before any worker starts; the other run is only read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.preflight import preflight
from finetune_trainer.spec import FineTuneJob, identity, identity_fields, parse_job, run_id
from finetune_trainer.starting_point import StartingPoint, look_up, record, recorded
from finetune_trainer.store import Checkpoint, Identity, RunLog, StorageRefused, copy_checkpoint, open_store
from s3_bucket import Bucket
from s3_server import S3Server
from small_job import SmallJob, make_small_job
from small_run import damage, save


@pytest.fixture
def small_job(tmp_path: Path) -> SmallJob:
    return make_small_job(tmp_path)


def identity_of(job: FineTuneJob) -> Identity:
    return Identity(hash=identity(job), fields=identity_fields(job))


def begin_run(small_job: SmallJob, uri: str, name: str = "first", **spec: Any) -> tuple[RunLog, list[Checkpoint]]:
    """Another run with commits of the steps 10, 20 and 30 below `uri`, of which 20 is the best."""
    log = RunLog(open_store(uri), f"default.{name}")
    writer = log.claim(identity_of(parse_job(json.dumps(small_job.manifest(name, **spec)))))
    saved: list[Checkpoint] = []
    for step, loss in ((10, 1.9), (20, 1.5), (30, 1.7)):
        saved.append(save(writer, step, saved[-1] if saved else None, loss))
    return log, saved


def starting(small_job: SmallJob, uri: str, which: str = "latest", **spec: Any) -> FineTuneJob:
    return parse_job(
        json.dumps(small_job.manifest("second", model={"checkpoint": {"uri": uri, "which": which}}, **spec))
    )


def chosen(job: FineTuneJob) -> StartingPoint:
    assert job.spec.model.checkpoint is not None
    return look_up(job.spec.model.checkpoint)


def refusal(job: FineTuneJob, kind: type[Exception] = DataError) -> str:
    with pytest.raises(kind) as refused:
        preflight(job)
    return str(refused.value)


def test_a_checkpoint_is_found_by_the_runs_folder_and_by_its_root(small_job: SmallJob, bucket: Bucket) -> None:
    log, (first, best, last) = begin_run(small_job, f"{bucket.uri}/ckpt")
    preflight(starting(small_job, log.uri))
    for uri in (log.uri, f"{log.uri}/", f"{bucket.uri}/ckpt"):
        for which, entry in {"latest": last, "best": best, "step:10": first, str(first.seq): first}.items():
            expected = StartingPoint(uri=log.uri, seq=entry.seq, step=entry.step)
            assert chosen(starting(small_job, uri, which)) == expected


def test_an_address_without_a_run_or_with_several_is_refused(small_job: SmallJob, tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/ckpt"
    expected = f"spec.model.checkpoint.uri: there is no run at {uri}: write <checkpoint.uri>/<run id> of that job"
    assert refusal(starting(small_job, uri)).startswith(expected)
    logs = [begin_run(small_job, uri, name)[0] for name in ("first", "other")]
    assert f"several runs below {uri}: write one of {logs[0].uri}, {logs[1].uri}" in refusal(starting(small_job, uri))


def test_a_checkpoint_that_is_not_there_or_set_aside_is_refused_with_those_that_are(
    small_job: SmallJob, tmp_path: Path
) -> None:
    log, (first, best, last) = begin_run(small_job, f"file://{tmp_path}/ckpt")
    log.editor().quarantine(best, "flipped")
    there = f"there are {first.seq} (step 10), {last.seq} (step 30)"
    for which in ("step:11", "step:20", str(best.seq), "99"):
        said = refusal(starting(small_job, log.uri, which))
        assert said.startswith(f"spec.model.checkpoint.which: no checkpoint {which} of {log.uri} can be used: write ")
        assert there in said
    assert chosen(starting(small_job, log.uri, "best")).step == 30


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"lora": {"rank": 8}}, r"spec.method.lora.rank: is 8, and step 30 of {uri} .* was trained with 4: write that"),
        ({"lora": {"alpha": 16}}, "spec.method.lora.alpha: is 16, and .* trained with 8: write that"),
        ({"type": "Full", "lora": None}, "spec.method.type: is Full, and .* with LoRA: write that, or export that run"),
    ],
    ids=["rank", "alpha", "type"],
)
def test_another_method_is_refused_with_what_to_write(
    small_job: SmallJob, tmp_path: Path, method: dict[str, Any], expected: str
) -> None:
    log, _ = begin_run(small_job, f"file://{tmp_path}/ckpt")
    with pytest.raises(DataError, match=expected.replace("{uri}", log.uri)):
        preflight(starting(small_job, log.uri, method=method))


@pytest.mark.parametrize(
    ("theirs", "mine", "expected"),
    [
        (
            "SFT",
            "Reward",
            "is Reward, which trains a head of one score, and .* with SFT and has no score head: begin with",
        ),
        ("DPO", "Classification", "is Classification, which trains a score for each label, and .* with DPO and has no"),
        ("Reward", "SFT", "is SFT, which trains no score head, and .* with Reward and has a head of one score: leave "),
        ("Classification", "Reward", "is Reward, .* and has a score for each label: leave spec.model.checkpoint out"),
    ],
)
def test_a_checkpoint_with_another_head_is_refused_by_its_objective(
    small_job: SmallJob, tmp_path: Path, theirs: str, mine: str, expected: str
) -> None:
    log, _ = begin_run(small_job, f"file://{tmp_path}/ckpt", objective={"type": theirs})
    with pytest.raises(DataError, match=rf"^spec\.objective\.type: {expected}"):
        preflight(starting(small_job, log.uri, objective={"type": mine}))


def test_labels_and_added_tokens_must_stand_in_the_order_that_the_weights_have(
    small_job: SmallJob, tmp_path: Path
) -> None:
    def asked(labels: list[str], tokens: list[str]) -> dict[str, Any]:
        objective = {"type": "Classification", "classification": {"labels": labels}}
        return {"objective": objective, "model": {"addedTokens": tokens}}

    uri = f"file://{tmp_path}/ckpt"
    begin_run(small_job, uri, **asked(["ham", "spam"], ["<a>", "<b>"]))

    def second(labels: list[str], tokens: list[str]) -> FineTuneJob:
        spec = asked(labels, tokens)
        spec["model"] |= {"checkpoint": {"uri": uri}}
        return parse_job(json.dumps(small_job.manifest("second", **spec)))

    preflight(second(["ham", "spam"], ["<a>", "<b>"]))
    assert "classification.labels: step 30 of" in (found := refusal(second(["spam", "ham"], ["<a>", "<b>"])))
    assert found.endswith("was trained with ham, spam: write the same ones in the same order")
    assert "spec.model.addedTokens: step 30 of" in refusal(second(["ham", "spam"], ["<b>", "<a>"]))


@pytest.mark.parametrize(
    ("how", "expected"), [("missing", "is missing"), ("truncated", "bytes, not"), ("grown", "bytes, not")]
)
def test_an_object_that_is_not_there_in_its_size_is_named(
    small_job: SmallJob, tmp_path: Path, how: str, expected: str
) -> None:
    log, (*_, last) = begin_run(small_job, f"file://{tmp_path}/ckpt")
    damage(log.journal.store, last.objects[1], how)
    said = refusal(starting(small_job, log.uri))
    assert said.startswith(f"spec.model.checkpoint: step 30 of {log.uri} (log entry {last.seq}) cannot be used: ")
    assert f"{last.objects[1].key} " in said
    assert expected in said
    preflight(starting(small_job, log.uri, "step:20"))


def test_what_may_only_be_read_is_enough_and_what_may_not_is_said(
    small_job: SmallJob, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (s3.environment() | s3.add_user("theirs", "team-theirs").environment()).items():
        monkeypatch.setenv(name, value)
    log, _ = begin_run(small_job, "s3://team-theirs/ckpt")
    for name, value in s3.add_user("mine", "team-mine").environment().items():
        monkeypatch.setenv(name, value)
    job = starting(small_job, log.uri)
    said = refusal(job, StorageRefused)
    assert said.startswith("spec.model.checkpoint.uri: cannot list s3://team-theirs/")
    assert "this job only reads there (s3:GetObject, s3:ListBucket)" in said
    everything = ["arn:aws:s3:::team-theirs", "arn:aws:s3:::team-theirs/*"]
    reads = ["s3:GetObject", "s3:ListBucket"]
    grant = {"Effect": "Allow", "Principal": {"AWS": ["mine"]}, "Action": reads, "Resource": everything}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [grant]})
    s3.client().put_bucket_policy(Bucket="team-theirs", Policy=policy)
    preflight(job)
    with pytest.raises(StorageRefused):
        log.editor().pin(log.checkpoints()[0])


def test_a_run_keeps_to_what_its_first_claim_says_and_needs_nothing_of_it_after_a_commit(
    small_job: SmallJob, tmp_path: Path
) -> None:
    log, (*_, last) = begin_run(small_job, f"file://{tmp_path}/ckpt")
    job = starting(small_job, log.uri)
    own = RunLog(open_store(job.spec.checkpoint.uri), run_id(job))
    writer = own.claim(identity_of(job), info=record(chosen(job)))
    newer = save(log.editor(), 40, last)
    preflight(job)
    log.editor().discard(last)
    assert "step 30" in refusal(job)
    save(writer, 1)
    preflight(job)
    assert newer.seq in log.history().good


def test_a_copy_of_a_run_says_with_what_it_began(small_job: SmallJob, tmp_path: Path) -> None:
    log, _ = begin_run(small_job, f"file://{tmp_path}/ckpt")
    job = starting(small_job, log.uri)
    own = RunLog(open_store(job.spec.checkpoint.uri), run_id(job))
    writer = own.claim(identity_of(job), info=record(chosen(job)))
    copy = RunLog(open_store(f"file://{tmp_path}/copies"), run_id(job))
    refs = [writer.write(writer.new_checkpoint(1), "weights", b"1")]
    copy_checkpoint(own, writer.commit(1, None, refs, {}), copy)
    assert recorded(copy) == chosen(job)


def test_a_log_that_does_not_say_with_what_it_began_is_an_error(small_job: SmallJob, tmp_path: Path) -> None:
    log, _ = begin_run(small_job, f"file://{tmp_path}/ckpt")
    job = starting(small_job, log.uri)
    own = RunLog(open_store(job.spec.checkpoint.uri), run_id(job))
    own.claim(identity_of(job))
    assert "does not say with which checkpoint the run began" in refusal(job, StorageError)
