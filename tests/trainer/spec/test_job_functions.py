"""What follows from a job: ranks, run id, the manifest again, absolute paths, fields without effect, defaults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.spec import (
    FineTuneJob,
    LoRA,
    OutputFormat,
    Overlong,
    Packing,
    ignored_locally,
    parse_job,
    ranks,
    run_id,
    to_manifest,
    with_absolute_paths,
)

Manifest = Callable[[dict[str, Any]], str]

SMALL: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "small"},
    "spec": {
        "model": {"uri": "hf://org/name"},
        "method": {"type": "LoRA"},
        "objective": {"type": "SFT"},
        "data": {"train": [{"uri": "s3://data/a.jsonl"}], "maxLength": 1024},
        "training": {"epochs": 1, "globalBatchSize": 16, "learningRate": 2e-4},
        "checkpoint": {"uri": "s3://ckpt/small", "everySteps": 10},
        "output": {"uri": "s3://models/small"},
        "workers": {"gpusPerReplica": 1},
    },
}


def small(**members: Any) -> FineTuneJob:
    """The smallest job, with members of `spec` replaced or extended."""
    spec = {**SMALL["spec"]}
    for name, value in members.items():
        spec[name] = {**spec.get(name, {}), **value} if isinstance(value, dict) else value
    return parse_job(json.dumps({**SMALL, "spec": spec}))


@pytest.mark.parametrize(("replicas", "gpus", "expected"), [(2, 8, 16), (1, 1, 1), (4, 0, 4)])
def test_ranks_are_replicas_times_their_gpus(replicas: int, gpus: int, expected: int) -> None:
    assert ranks(small(workers={"replicas": replicas, "gpusPerReplica": gpus})) == expected


def test_the_run_id_is_the_uid_on_a_cluster_and_the_name_elsewhere(manifest: Manifest) -> None:
    uid = "5f0f9a3e-6e0b-4a57-9c1e-2f1f0c5b7a11"
    assert run_id(parse_job(manifest({"/metadata/uid": uid}))) == uid
    assert run_id(parse_job(manifest({}))) == "team-a.support-bot"
    assert run_id(small()) == "default.small"


def test_a_manifest_made_of_a_job_makes_the_same_job(manifest: Manifest) -> None:
    for job in (parse_job(manifest({})), small()):
        again = parse_job(json.dumps(to_manifest(job)))
        assert again == job
        assert to_manifest(again) == to_manifest(job)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    learning_rate=st.floats(1e-12, 1.0),
    betas=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    seed=st.integers(0, 2**32 - 1),
    # JSON leaves DEL as it is, and YAML has no DEL.
    template=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), min_size=1, max_size=40),
    columns=st.dictionaries(st.sampled_from(["messages", "tools"]), st.text("abc \"'{}:#\\é", min_size=1, max_size=8)),
    weight=st.floats(1e-6, 1000.0),
)
def test_no_value_is_lost_on_the_way_through_a_manifest(
    learning_rate: float,
    betas: tuple[float, float],
    seed: int,
    template: str,
    columns: dict[str, str],
    weight: float,
) -> None:
    job = small(
        model={"chatTemplate": template},
        data={"train": [{"uri": "s3://data/a", "format": "Messages", "columns": columns, "weight": weight}]},
        training={"learningRate": learning_rate, "optimizer": {"betas": list(betas)}, "seed": seed},
    )
    assert job.spec.training.learning_rate == learning_rate
    assert job.spec.training.optimizer.betas == betas
    assert job.spec.model.chat_template == template
    assert (job.spec.data.train[0].columns, job.spec.data.train[0].weight) == (columns, weight)
    assert parse_job(json.dumps(to_manifest(job))) == job


def test_a_job_cannot_be_changed() -> None:
    job = small()
    with pytest.raises(ValueError, match="frozen"):
        job.spec.training.seed = 3  # type: ignore[misc]


def test_enums_are_their_manifest_values() -> None:
    assert small().spec.data.packing is Packing.BEST_FIT
    assert str(Packing.BEST_FIT) == f"{Packing.BEST_FIT}" == "BestFit"


def test_relative_paths_begin_at_the_manifest(tmp_path: Path) -> None:
    job = small(
        model={
            "uri": "file://./model",
            "chatTemplate": "file://./mine.jinja",
            "checkpoint": {"uri": "file://./ckpt/default.first"},
        },
        data={
            "train": [{"uri": "file://./a/*.jsonl"}, {"uri": "file:///b/*.jsonl"}],
            "eval": [{"name": "e", "uri": "file://./e.jsonl"}],
        },
        checkpoint={"uri": "file://./ckpt"},
        output={"uri": "file://./out"},
    )
    spec = with_absolute_paths(job, tmp_path).spec
    root = f"file://{tmp_path.resolve()}"
    assert [source.uri for source in spec.data.train] == [f"{root}/a/*.jsonl", "file:///b/*.jsonl"]
    assert [source.uri for source in spec.data.eval] == [f"{root}/e.jsonl"]
    assert spec.model.chat_template == f"{root}/mine.jinja"
    assert spec.model.checkpoint is not None
    assert spec.model.checkpoint.uri == f"{root}/ckpt/default.first"
    assert (spec.model.uri, spec.checkpoint.uri, spec.output.uri) == (f"{root}/model", f"{root}/ckpt", f"{root}/out")


def test_brackets_in_the_folder_of_the_manifest_are_no_glob(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    folder.mkdir()
    (folder / "a.jsonl").touch()
    job = small(data={"train": [{"uri": "file://./*.jsonl"}]}, output={"uri": "file://./out"})
    spec = with_absolute_paths(job, folder).spec
    assert list(Path("/").glob(spec.data.train[0].uri.removeprefix("file:///"))) == [folder.resolve() / "a.jsonl"]
    assert spec.output.uri == f"file://{folder.resolve()}/out"


def test_a_job_without_relative_paths_stays_the_same(tmp_path: Path) -> None:
    assert with_absolute_paths(small(), tmp_path) == small()


def test_given_cluster_fields_are_listed_and_defaults_are_not(manifest: Manifest) -> None:
    assert ignored_locally(small()) == []
    assert ignored_locally(small(failurePolicy={"maxRestarts": 1})) == []
    elastic = {"replicas": 2, "minReplicas": 1, "gpusPerReplica": 0}
    assert ignored_locally(small(workers=elastic)) == ["spec.workers.minReplicas"]
    assert ignored_locally(parse_job(manifest({}))) == [
        "spec.storage",
        "spec.hub",
        "spec.serviceAccountName",
        "spec.runtimeRef",
        "spec.queueName",
        "spec.priorityClassName",
        "spec.workers.resources",
        "spec.failurePolicy.maxAttempts",
        "spec.failurePolicy.rules",
        "spec.activeDeadlineSeconds",
        "spec.terminationGracePeriodSeconds",
        "spec.ttlSecondsAfterFinished",
        "spec.suspend",
    ]


def test_lora_options_have_defaults_with_lora_only() -> None:
    assert small().spec.method.lora == LoRA()
    assert small(method={"type": "Full"}).spec.method.lora is None


def test_the_output_format_follows_the_method() -> None:
    assert small().spec.output.format is OutputFormat.ADAPTER
    assert small(method={"type": "Full"}).spec.output.format is OutputFormat.FULL


def test_overlong_texts_are_split_and_overlong_answers_are_truncated() -> None:
    assert small(objective={"type": "CPT"}).spec.data.overlong is Overlong.SPLIT
    assert small().spec.data.overlong is Overlong.TRUNCATE
    assert small(objective={"type": "CPT"}, data={"overlong": "Drop"}).spec.data.overlong is Overlong.DROP


def test_held_out_data_is_compared_with_the_base_unless_refused() -> None:
    held_out = {"eval": [{"name": "e", "uri": "s3://data/e.jsonl"}]}
    assert small(data=held_out).spec.evaluation.compare_base is True
    assert small(data=held_out, evaluation={"compareBase": False}).spec.evaluation.compare_base is False
    assert small().spec.evaluation.compare_base is False


def test_the_best_checkpoint_is_kept_when_there_are_evaluations() -> None:
    held_out = {"eval": [{"name": "e", "uri": "s3://data/e.jsonl"}]}
    assert small(data=held_out, evaluation={"everySteps": 5}).spec.checkpoint.keep_best == 1
    assert small(data=held_out).spec.checkpoint.keep_best == 0


def test_the_output_of_kubectl_get_is_accepted(manifest: Manifest) -> None:
    server = {
        "/metadata/creationTimestamp": "2026-11-23T00:00:00Z",
        "/metadata/generation": 3,
        "/metadata/managedFields": [{"manager": "kubectl"}],
        "/metadata/resourceVersion": "17",
        "/status": {"phase": "Training", "conditions": []},
    }
    assert parse_job(manifest(server)) == parse_job(manifest({}))


def test_a_null_is_a_field_left_out(manifest: Manifest) -> None:
    text = manifest({"queueName": None, "evaluation.earlyStopping": None})
    assert '"queueName": null' in text
    spec = parse_job(text).spec
    assert (spec.queue_name, spec.evaluation.early_stopping) == (None, None)
