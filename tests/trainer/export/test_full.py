"""Full weights: the layout of published checkpoints, tied weights once, shards with an index, nothing empty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel

import tiny_models
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.errors import StorageError
from finetune_trainer.export.full import export_full
from finetune_trainer.export.gather import IncompleteWeights


def exported(kind: str, control: ControlGroup, tmp_path: Path, dtype: torch.dtype, shard_bytes: int) -> PreTrainedModel:
    """A model as the trainer loads it, exported to `tmp_path`/out."""
    load: Any = AutoModelForCausalLM.from_pretrained
    model: PreTrainedModel = load(tiny_models.save(kind, tmp_path / "model", shard_size="30KB"), dtype=dtype)
    (tmp_path / "out").mkdir()
    export_full(model, tmp_path / "model", tmp_path / "out", control, shard_bytes)
    return model


def stored(folder: Path) -> dict[str, list[int]]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            found.update({name: weights.get_slice(name).get_shape() for name in weights.keys()})  # noqa: SIM118
    return found


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "gemma2", "mixtral", "qwen3-moe"])
@pytest.mark.parametrize("shard_bytes", [20_000, 10**9])
def test_export_has_the_names_and_shapes_of_the_base_and_loads(
    kind: str, shard_bytes: int, control: ControlGroup, tmp_path: Path
) -> None:
    model = exported(kind, control, tmp_path, torch.float32, shard_bytes)
    assert stored(tmp_path / "out") == stored(tmp_path / "model")
    load: Any = AutoModelForCausalLM.from_pretrained
    again, info = load(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert again.dtype == torch.float32
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_shards_stay_below_their_limit_and_are_indexed(control: ControlGroup, tmp_path: Path) -> None:
    exported("llama", control, tmp_path, torch.bfloat16, 10_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)
    ]
    assert all(file.stat().st_size < 10_000 + 2_000 for file in files)  # and a header
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["weight_map"].keys() == stored(tmp_path / "out").keys()


def test_config_says_the_dtype_of_the_exported_weights(control: ControlGroup, tmp_path: Path) -> None:
    exported("llama", control, tmp_path, torch.bfloat16, 10**9)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float32"
    load: Any = AutoModelForCausalLM.from_pretrained
    assert load(tmp_path / "out").dtype == torch.bfloat16


def test_an_empty_weight_stops_the_export(control: ControlGroup, tmp_path: Path) -> None:
    model = tiny_models.build("llama")
    model.lm_head.weight = torch.nn.Parameter(torch.empty(0))
    with pytest.raises(IncompleteWeights, match=r"lm_head\.weight has shape \[0\]"):
        export_full(model, tmp_path, tmp_path, control)


def test_a_disk_that_takes_no_file_is_named(control: ControlGroup, tmp_path: Path) -> None:
    folder = tiny_models.save("llama", tmp_path / "model")
    (tmp_path / "file").write_text("where a folder should be")
    with pytest.raises(StorageError, match=r"cannot write the export to .*FINETUNE_WORKDIR"):
        export_full(tiny_models.build("llama"), folder, tmp_path / "file", control)
