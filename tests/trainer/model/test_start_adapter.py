"""An adapter to start from: found at every kind of address, and compared with the manifest before any worker starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hub_server
import tiny_models
from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.export.merge_start import merge_start
from finetune_trainer.model.adapter_folder import CONFIG, WEIGHTS, fetch_adapter, look
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.model.start_adapter import ADAPTED_SCORE, load_adapter
from finetune_trainer.preflight import preflight
from finetune_trainer.spec import FineTuneJob, LoRA, parse_job
from hub_server import Hub
from s3_bucket import Bucket
from small_job import make_small_job

LORA = LoRA(rank=4, alpha=8)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """What plain peft saves, with a file that nobody here reads."""
    model, _ = apply_lora(tiny_models.build("llama"), LORA, seed=0)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.fill_(0.02)
    model.save_pretrained(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "optimizer.pt").write_bytes(b"pickle")
    return tmp_path / "adapter"


def described(adapter: Path, **changes: Any) -> None:
    path = adapter / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def starting(tmp_path: Path, uri: str, use: str = "Continue", **spec: Any) -> FineTuneJob:
    job = make_small_job(tmp_path / "job")
    return parse_job(json.dumps(job.manifest("second", model={"adapter": {"uri": uri, "use": use}}, **spec)))


def test_only_the_adapters_files_are_read_from_s3_and_only_once(bucket: Bucket, adapter: Path, tmp_path: Path) -> None:
    for file in adapter.iterdir():
        bucket.client.put_object(Bucket=bucket.name, Key=f"stage/one/{file.name}", Body=file.read_bytes())
    uri = f"{bucket.uri}/stage/one"
    look(starting(tmp_path, uri))
    folder = fetch_adapter(uri, tmp_path / "cache")
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {CONFIG, WEIGHTS}
    assert (folder / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    inode = (folder / WEIGHTS).stat().st_ino
    assert fetch_adapter(uri, tmp_path / "cache") == folder
    assert (folder / WEIGHTS).stat().st_ino == inode
    with pytest.raises(DataError, match=r"^spec\.model\.adapter\.uri: .*/stage/none has no adapter_config\.json"):
        fetch_adapter(f"{bucket.uri}/stage/none", tmp_path / "cache")
    with pytest.raises(StorageError, match=r"^spec\.model\.adapter\.uri: "):
        look(starting(tmp_path / "b", "s3://no-such-bucket-here/adapter"))


def test_an_adapter_comes_from_the_hub_without_what_else_lies_there(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with hub_server.serving(Hub({"org/adapter": adapter})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        folder = fetch_adapter("hf://org/adapter@main", tmp_path / "cache")
        assert sorted(hub.files_read()) == [CONFIG, WEIGHTS]
        assert (folder / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
        with pytest.raises(DataError, match=r"^spec\.model\.adapter\.uri: hf://org/none does not exist"):
            fetch_adapter("hf://org/none", tmp_path / "cache")


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "another rank": ({"r": 8}, r"^spec\.method\.lora\.rank: is 4, and the adapter at .* has 8: write that"),
    "rsLoRA": ({"use_rslora": True}, r"^spec\.method\.lora\.rslora: is false, and .* has true: write that"),
    "another method": ({"peft_type": "VERA"}, r'^spec\.model\.adapter\.uri: .* has peft_type: "VERA", which cannot'),
    "trained biases": ({"bias": "all"}, r'has bias: "all", which cannot be started from'),
    "for other weights": ({"init_lora_weights": "pissa_niter_4"}, r"write a plain LoRA adapter for the model's own"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_the_manifest_does_not_say_is_refused_before_any_worker(adapter: Path, tmp_path: Path, case: str) -> None:
    changes, message = OTHERS[case]
    look(starting(tmp_path, f"file://{adapter}"))
    described(adapter, **changes)
    with pytest.raises(DataError, match=message):
        preflight(starting(tmp_path, f"file://{adapter}"))


def test_a_rank_of_its_own_does_not_matter_to_an_adapter_that_is_merged(adapter: Path, tmp_path: Path) -> None:
    look(starting(tmp_path, f"file://{adapter}", "Merge", method={"lora": {"rank": 64}}))


def test_a_merged_start_is_made_once_and_another_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    model = tiny_models.save("llama", tmp_path / "model", shard_size="20KB")
    tiny_models.save_tokenizer(model)
    folder = merge_start(model, adapter, tmp_path / "cache", torch.float32)
    weights = load_file(folder / "model.safetensors")
    assert (folder / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert not (folder / "model.safetensors.index.json").exists()
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert merge_start(model, adapter, tmp_path / "cache", torch.float32) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    before = tiny_models.build("llama").state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert not torch.equal(weights["model.layers.0.mlp.up_proj.weight"], before)
    described(adapter, lora_alpha=16)
    stronger = merge_start(model, adapter, tmp_path / "cache", torch.float32)
    name = "model.layers.0.mlp.up_proj.weight"
    added, twice = weights[name] - before, load_file(stronger / "model.safetensors")[name] - before
    assert torch.allclose(twice, 2 * added, atol=1e-6), "the scale is part of what a merged model is known by"
    tokens = (model / "tokenizer.json").read_text()
    (model / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 7}))
    assert merge_start(model, adapter, tmp_path / "cache", torch.float32) not in (folder, stronger)
    (adapter / "tokenizer.json").write_text(tokens.replace('"added_tokens": [', '"added_tokens":  ['))
    theirs = merge_start(model, adapter, tmp_path / "cache", torch.float32)
    assert (theirs / "tokenizer.json").read_bytes() == (adapter / "tokenizer.json").read_bytes()
    other = tiny_models.save("llama", tmp_path / "other", intermediate_size=64)
    with pytest.raises(
        DataError, match=r"^spec\.model\.adapter\.uri: the adapter does not fit the model at spec\.model"
    ):
        merge_start(other, adapter, tmp_path / "cache", torch.float32)


def test_an_adapter_with_a_score_head_is_refused_for_a_language_model(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(load_file(adapter / WEIGHTS) | {ADAPTED_SCORE: torch.zeros(1, 8)}, adapter / WEIGHTS)
    model, _ = apply_lora(tiny_models.build("llama"), LORA, seed=1)
    with pytest.raises(
        DataError, match=r"^spec\.model\.adapter\.uri: .* has a score head, of Reward or Classification"
    ):
        load_adapter(model, adapter, "file:///reward", LORA)
