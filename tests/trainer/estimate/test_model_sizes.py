"""What a model's folder tells without its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_models
from finetune_trainer.errors import DataError, SpecError
from finetune_trainer.launch.fitting import GPU_MEMORY, check_fits
from finetune_trainer.model.sizes import parameters_of_model, shape_of_model, sizes_of_model
from finetune_trainer.spec import load_local_job
from small_job import make_small_job


def test_a_known_architecture_is_read_by_its_configuration(tmp_path: Path) -> None:
    folder = tiny_models.save("llama", tmp_path / "model")
    shape = shape_of_model(f"file://{folder}")
    assert shape is not None
    assert shape.parameters == sum(one.numel() for one in tiny_models.build("llama").parameters())


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_of_another_one_the_parameters_are_counted_in_its_files(tmp_path: Path, shard_size: str) -> None:
    folder = tiny_models.save("gpt2", tmp_path / "model", shard_size=shard_size)
    assert (folder / "model.safetensors.index.json").exists() == (shard_size == "20KB")
    count = sum(one.numel() for one in tiny_models.build("gpt2").parameters())
    assert sizes_of_model(f"file://{folder}") == parameters_of_model(f"file://{folder}") == count


def test_an_index_of_an_older_writer_tells_bytes_only(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "old", "torch_dtype": "bfloat16"}))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 2_000_000}}))
    assert sizes_of_model(f"file://{tmp_path}") == 1_000_000


def test_where_nothing_tells_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "old"}))
    assert sizes_of_model(f"file://{tmp_path}") is None
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    assert sizes_of_model(f"file://{tmp_path}") is None
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert sizes_of_model(f"file://{tmp_path}") is None


@pytest.mark.parametrize(("content", "message"), [(None, "has no config.json"), ("{", "is no JSON"), ("[]", "a list")])
def test_a_folder_without_a_configuration_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=message):
        shape_of_model(f"file://{tmp_path}")


def test_a_job_of_another_architecture_is_refused_by_its_parameters_alone(tmp_path: Path) -> None:
    small = make_small_job(tmp_path, kind="gpt2")
    workers, method = {"replicas": 1, "gpusPerReplica": 1}, {"type": "Full", "lora": None}
    job = load_local_job(small.write(workers=workers, method=method))
    check_fits(job, {GPU_MEMORY: str(2**30)}, local=False)
    with pytest.raises(SpecError, match=r"has 0\.3 GiB \(weights .* take larger devices"):
        check_fits(job, {GPU_MEMORY: str(3 * 2**27 - 2**26)}, local=False)
