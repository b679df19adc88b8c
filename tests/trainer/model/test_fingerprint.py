"""What a run knows its model by: every change that matters shows, and nothing else does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hub_server
import tiny_models
from finetune_trainer.model.fetch import fetch_model
from finetune_trainer.model.fingerprint import ModelIdentity, fingerprint, hub_revision, identify
from finetune_trainer.model.tokenizer import load_tokenizer
from hub_server import Hub
from ranks import run_ranks


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_fingerprint_follows_every_byte_of_small_weights(tmp_path: Path) -> None:
    folder = tiny_models.save("llama", tmp_path / "model", shard_size="30KB")
    before = fingerprint(folder)
    assert before["hashed"] == "weights"
    flip_last_byte(sorted(folder.glob("*.safetensors"))[1])
    assert fingerprint(folder)["sha256"] != before["sha256"]


def test_fingerprint_of_large_weights_is_of_headers_and_samples(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512}
    one, same, other = (
        tiny_models.save("llama", tmp_path / name, seed=seed, **sizes) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    first = fingerprint(one, whole_below=1000)
    assert first["hashed"] == "names, sizes, headers and samples of the weights"
    assert first["bytes"] > 10 * 64 * 4096  # most of it is not sampled
    assert fingerprint(same, whole_below=1000) == first
    assert fingerprint(other, whole_below=1000) != first
    fewer = tiny_models.save("llama", tmp_path / "d", num_hidden_layers=1, **sizes)
    assert fingerprint(fewer, whole_below=1000) != first


def test_samples_reach_the_first_and_the_last_weight(tmp_path: Path) -> None:
    folder = tiny_models.save("llama", tmp_path / "model", hidden_size=256, intermediate_size=512)
    before = fingerprint(folder, whole_below=1000)
    flip_last_byte(folder / "model.safetensors")
    assert fingerprint(folder, whole_below=1000) != before


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda folder: flip_last_byte(folder / "model.safetensors"), {"weights"}),
        (lambda folder: edit_json(folder / "config.json", rms_norm_eps=1e-3), {"weights"}),
        (lambda folder: edit_json(folder / "tokenizer.json", normalizer={"type": "Lowercase"}), {"tokenizer"}),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"), {"tokenizer"}),
        (lambda folder: (folder / "README.md").write_text("hello"), set()),
        (lambda folder: (folder / "generation_config.json").write_text("{}"), set()),
    ],
    ids=["weights", "configuration", "tokenizer", "chat template", "card", "generation"],
)
def test_identity_follows_what_training_depends_on(
    tmp_path: Path, change: Callable[[Path], object], differs: set[str]
) -> None:
    folder = tiny_models.save("llama", tmp_path / "model")
    tiny_models.save_tokenizer(folder, pad_token="<pad>")
    before = identity_of(folder)
    change(folder)
    after = identity_of(folder)
    assert {name for name in ("weights", "tokenizer") if getattr(before, name) != getattr(after, name)} == differs


def identity_of(folder: Path) -> ModelIdentity:
    return identify(folder, load_tokenizer(folder))


def test_a_chat_template_of_the_manifest_counts(tmp_path: Path) -> None:
    folder = tiny_models.save("llama", tmp_path / "model")
    tiny_models.save_tokenizer(folder, pad_token="<pad>")
    own, given = (identify(folder, load_tokenizer(folder, template)) for template in (None, "{{ messages }}"))
    assert own.tokenizer != given.tokenizer
    assert own.weights == given.weights


def test_a_models_commit_is_known_when_it_came_from_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tiny_models.save("llama", tmp_path / "repository")
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with hub_server.serving(Hub({"org/tiny": repository})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        folder = fetch_model("hf://org/tiny", tmp_path / "cache")
    assert hub_revision(folder) == hub_server.COMMIT
    assert hub_revision(repository) is None


def test_nodes_with_different_copies_of_a_model_are_told(tmp_path: Path) -> None:
    for rank, seed in enumerate((0, 1)):
        tiny_models.save_tokenizer(tiny_models.save("llama", tmp_path / f"model-{rank}", seed=seed), pad_token="<pad>")
    shutil.copytree(tmp_path / "model-0", tmp_path / "same-0")
    shutil.copytree(tmp_path / "model-0", tmp_path / "same-1")
    payload = {"folder": str(tmp_path)}
    one, other = run_ranks(2, "tests/trainer/model/ranks_fingerprint.py:agree", payload)
    assert one == other
    assert one["same"] is None
    assert "rank 1 has other files of hf://org/llama than rank 0" in one["different"]
