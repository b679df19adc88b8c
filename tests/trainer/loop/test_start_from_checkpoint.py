"""A run begins with the weights in another run's checkpoint, and with nothing else of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.context import RunContext, StopSignal
from finetune_trainer.errors import DataError
from finetune_trainer.spec import load_job
from finetune_trainer.store import Checkpoint, RunLog, open_store
from loop_runner import Killed, Recorder, Train, kill_at_commit
from ranks import run_ranks
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}
SHORT: dict[str, Any] = {"training": {"maxSteps": 4}, "checkpoint": {"everySteps": 2}, "evaluation": {"everySteps": 2}}
OTHER_SEED = {"maxSteps": 4, "seed": 7, "learningRate": 0.001}
CASES: dict[str, dict[str, Any]] = {
    "LoRA, stage 2": {},
    "LoRA in BF16, stage 0": {"deepspeed": {"zeroStage": 0}, "training": {"precision": "BF16"}},
    "Full, stage 0": {"method": {"type": "Full", "lora": None}, "deepspeed": {"zeroStage": 0}},
    "Full in BF16, stage 1": {
        "method": {"type": "Full", "lora": None},
        "deepspeed": {"zeroStage": 1},
        "training": {"precision": "BF16"},
    },
}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(one[key], other[key]) for key in one.keys() & other.keys() if isinstance(one[key], dict)}
    return {**one, **other, **both}


def source(train: Train, job: SmallJob, **spec: Any) -> RunLog:
    """The log of a run of four steps with commits of the steps 2 and 4."""
    train(job.write("first", **merged(merged(SHORT, ONE_RANK), spec)))
    return log_of(job, "first")


def log_of(job: SmallJob, name: str) -> RunLog:
    return RunLog(open_store(f"file://{job.folder}/checkpoints"), f"default.{name}")


def second(job: SmallJob, log: RunLog, which: str = "latest", name: str = "second", **spec: Any) -> Path:
    """The manifest of another run that begins with a checkpoint of the first one, of other settings."""
    start = {"model": {"checkpoint": {"uri": log.uri, "which": which}}, "training": OTHER_SEED}
    return job.write(name, **merged(merged(merged(SHORT, ONE_RANK), start), spec))


def at_step(log: RunLog, step: int) -> Checkpoint:
    return next(entry for entry in log.checkpoints() if entry.step == step)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def begun(path: Path, recorder: Recorder, log: RunLog, entry: Checkpoint) -> dict[str, Any]:
    """How a run that has begun in this process differs from the checkpoint that it began with."""
    from finetune_trainer.begin import begin
    from finetune_trainer.build import build
    from ranks_begin import compare, masters

    context = RunContext(0, 1, 0, 1, "cpu", None, recorder, recorder.stop, path.parent / "work" / "begun")
    with build(load_job(path), context) as run:
        begin(run)
        return compare(run, masters(log, entry))


@pytest.mark.parametrize("case", CASES)
def test_weights_are_the_checkpoints_bit_for_bit_and_everything_else_is_new(
    train: Train, small_job: SmallJob, case: str
) -> None:
    log = source(train, small_job, **CASES[case])
    entry = at_step(log, 2)
    recorder = Recorder()
    found = begun(second(small_job, log, "step:2", **CASES[case]), recorder, log, entry)
    assert found.pop("elements") > 1000
    assert len(found.pop("parameters")) > 10
    new = {"wrong": [], "weights": [], "moments": [], "updates": 0, "step": 0, "data": True}
    assert found == new
    told = [event["detail"] for event in recorder.of("phase") if event["name"] == "starting from a checkpoint"]
    assert told == [f"step 2 of {log.uri} (log entry {entry.seq})"]


@pytest.mark.parametrize(("method", "stage"), [("LoRA", 3), ("Full", 1)], ids=["LoRA to stage 3", "Full to stage 1"])
def test_another_world_size_and_stage_begin_with_the_same_bits(
    train: Train, small_job: SmallJob, method: str, stage: int
) -> None:
    kind: dict[str, Any] = {"method": {"type": method, **({"lora": None} if method == "Full" else {})}}
    log = source(train, small_job, deepspeed={"zeroStage": 2}, **kind)
    zero = {"zeroStage": stage, "overrides": {"zero_optimization.stage3_param_persistence_threshold": 0}}
    path = second(small_job, log, workers={"replicas": 2}, deepspeed=zero if stage == 3 else {"zeroStage": 1}, **kind)
    payload = {"job": str(path), "workdir": str(small_job.folder / "work"), "seq": at_step(log, 4).seq}
    payload |= {"store": log.journal.store.uri, "run": log.journal.run_id}
    ranks = run_ranks(2, "tests/trainer/ranks_begin.py:start", payload)
    for found in ranks:
        assert (found["wrong"], found["weights"], found["moments"], found["updates"]) == ([], [], [], 0)
    assert all(found["elements"] > 500 for found in ranks)


def test_a_whole_run_goes_from_the_best_checkpoint_to_a_card_that_names_it(train: Train, small_job: SmallJob) -> None:
    log = source(train, small_job)
    best = log.best()
    assert best is not None
    result, recorder = train(second(small_job, log, "best"))
    assert result["baseLoss"] == best.metric("evalLoss")
    assert [event["step"] for event in recorder.of("progress")] == [1, 2, 3, 4]
    assert recorder.of("progress")[0]["learningRate"] == 0.001  # the beginning of its own schedule
    card = (small_job.folder / "output" / "second" / "README.md").read_text()
    assert f"| started from | `{log.uri}`, step {best.step}, log entry {best.seq} |" in card
    assert "| set | starting checkpoint | this model |" in card
    audit = json.loads((small_job.folder / "output" / "second" / "audit.json").read_text())
    assert audit["lineage"]["startedFrom"] == {"uri": log.uri, "seq": best.seq, "step": best.step}
    assert audit["startLoss"] is None, "not that of a model which training does not begin with"


def test_a_restart_before_the_first_commit_begins_with_the_same_one_and_a_later_one_needs_it_no_more(
    train: Train, small_job: SmallJob
) -> None:
    first = small_job.write("first", **merged(SHORT, ONE_RANK))
    with pytest.raises(Killed):
        train(first, kill_at_commit(2))
    log = log_of(small_job, "first")
    chosen = at_step(log, 2)

    def die(event: Mapping[str, object], _: StopSignal) -> None:
        if event["kind"] == "progress":
            raise Killed

    path = second(small_job, log)
    with pytest.raises(Killed):
        train(path, Recorder(react=die))
    train(first)  # which commits a newer one
    assert [entry.step for entry in log.checkpoints()] == [2, 4]
    again = kill_at_commit(2)
    with pytest.raises(Killed):
        train(path, again)
    (told,) = [event["detail"] for event in again.of("phase") if event["name"] == "starting from a checkpoint"]
    assert told == f"step 2 of {log.uri} (log entry {chosen.seq})"
    (small_job.folder / "checkpoints" / "default.first").rename(small_job.folder / "gone")
    result, recorder = train(path)
    assert [event["step"] for event in recorder.of("progress")] == [3, 4]
    (small_job.folder / "gone").rename(small_job.folder / "checkpoints" / "default.first")
    whole, _ = train(second(small_job, log, "step:2", "whole"))
    assert (result["loss"], result["evalLoss"]) == (whole["loss"], whole["evalLoss"])


def test_another_base_model_is_refused_before_anything_of_it_is_read(train: Train, small_job: SmallJob) -> None:
    from safetensors.torch import load_file, save_file

    log = source(train, small_job)
    weights = small_job.folder / "model" / "model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights)
    recorder = Recorder()
    expected = (
        rf"^spec\.model\.uri: the configuration or weights of .* not those that step 4 of {log.uri} .* write file://"
    )
    with pytest.raises(DataError, match=expected):
        train(second(small_job, log), recorder)
    assert {event["name"] for event in recorder.of("phase")} == {"fetching the model"}


def test_adapters_of_other_modules_are_refused_before_any_step(train: Train, small_job: SmallJob) -> None:
    log = source(train, small_job, method={"lora": {"targetModules": ["q_proj", "v_proj"]}})
    for targets, words in (
        (["q_proj"], "it holds .*v_proj.*not train"),
        (["all-linear"], "it does not hold .*and .* more"),
    ):
        recorder = Recorder()
        with pytest.raises(
            DataError, match=rf"^spec\.method\.lora\.targetModules: step 4 of .* does not fit: .*{words}"
        ):
            train(second(small_job, log, method={"lora": {"targetModules": targets}}), recorder)
        assert recorder.of("progress") == []
        (small_job.folder / "checkpoints" / "default.second").rename(small_job.folder / f"refused-{targets[0]}")


def test_damage_is_named_and_nothing_is_written_where_it_lies(train: Train, small_job: SmallJob) -> None:
    log = source(train, small_job)
    victim = next(ref for ref in at_step(log, 4).objects if "state-" in ref.key)
    path = small_job.folder / "checkpoints" / victim.key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    before = files(small_job.folder / "checkpoints" / "default.first")
    recorder = Recorder()
    with pytest.raises(
        DataError, match=rf"^spec\.model\.checkpoint: step 4 of .*{victim.key} is damaged between bytes"
    ):
        train(second(small_job, log), recorder)
    assert files(small_job.folder / "checkpoints" / "default.first") == before
    assert recorder.of("progress") == []


def test_a_checkpoint_that_its_run_gave_up_meanwhile_is_refused_by_name(train: Train, small_job: SmallJob) -> None:
    log = source(train, small_job)
    path = second(small_job, log, "step:2")

    def die(event: Mapping[str, object], _: StopSignal) -> None:
        if event["kind"] == "audit":
            raise Killed

    with pytest.raises(Killed):
        train(path, Recorder(react=die))
    log.editor().discard(at_step(log, 2))
    with pytest.raises(DataError, match=r"^spec\.model\.checkpoint: step 2 of .* is not kept there any more.*pin"):
        train(path)
