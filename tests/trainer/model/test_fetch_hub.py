"""hf:// goes through the real huggingface_hub to a server that speaks its API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import hub_server
import tiny_models
from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.model.fetch import fetch_model, fetch_tokenizer
from hub_server import Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tiny_models.save("llama", tmp_path / "repository", shard_size="20KB")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "consolidated.safetensors").write_bytes(b"the same weights in another format")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with hub_server.serving(Hub({"org/tiny": folder, "org/empty": tmp_path / "nothing"})) as hub:
        (tmp_path / "nothing").mkdir()
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def test_only_the_models_files_are_read_and_only_once(hub: Hub, tmp_path: Path) -> None:
    folder = fetch_model("hf://org/tiny@main", tmp_path / "cache")
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json"} <= names
    assert not names & {"pytorch_model.bin", "consolidated.safetensors", "original"}
    repository = hub.repositories["org/tiny"]
    assert all((folder / name).read_bytes() == (repository / name).read_bytes() for name in names)
    read = hub.files_read()
    assert sorted(read) == sorted(names)
    assert fetch_model("hf://org/tiny@main", tmp_path / "cache") == folder
    assert hub.files_read() == read


def test_a_tokenizer_is_read_without_weights_which_a_later_fetch_adds(hub: Hub, tmp_path: Path) -> None:
    folder = fetch_tokenizer("hf://org/tiny", tmp_path / "cache")
    assert (folder / "tokenizer.json").exists()
    read = hub.files_read()
    assert not [name for name in read if name.endswith(".safetensors")]
    assert fetch_model("hf://org/tiny", tmp_path / "cache") == folder
    assert [name for name in hub.files_read() if name.endswith(".json")] == [n for n in read if n.endswith(".json")]
    with pytest.raises(DataError, match="does not exist or is private"):
        fetch_tokenizer("hf://org/none", tmp_path / "cache")


def test_progress_counts_the_bytes_of_the_weights(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    fetch_model("hf://org/tiny", tmp_path / "cache", progress=lambda *done: seen.append(done))
    total = sum(path.stat().st_size for path in hub.repositories["org/tiny"].glob("model-*.safetensors"))
    assert seen[-1] == (total, total)
    assert [here for here, _ in seen] == sorted(here for here, _ in seen)


def test_a_commit_in_the_cache_needs_no_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_model(f"hf://org/tiny@{hub_server.COMMIT}", tmp_path / "cache")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch_model(f"hf://org/tiny@{hub_server.COMMIT}", tmp_path / "cache") == folder


def test_the_token_is_sent(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    with pytest.raises(DataError, match=r"spec.model.uri: hf://org/tiny@main does not exist or is private.*HF_TOKEN"):
        fetch_model("hf://org/tiny@main", tmp_path / "cache")
    assert (fetch_model("hf://org/tiny@main", tmp_path / "cache", token="hf_secret") / "config.json").exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://org/absent", "hf://org/absent does not exist or is private: check the name"),
        ("hf://org/tiny@v2", "has no revision 'v2': write a branch, tag or commit"),
        ("hf://org/empty", "has no config.json"),
    ],
)
def test_what_does_not_exist_is_named(hub: Hub, tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fetch_model(uri, tmp_path / "cache")


def test_weights_that_need_unpickling_are_refused(hub: Hub, tmp_path: Path) -> None:
    repository = hub.repositories["org/tiny"]
    for path in repository.glob("model*"):
        path.unlink()
    (repository / "consolidated.safetensors").unlink()
    with pytest.raises(DataError, match=r"has only pytorch_model\.bin.*convert to safetensors"):
        fetch_model("hf://org/tiny", tmp_path / "cache")
    assert not any(name.endswith(".bin") for name in hub.files_read())


def test_a_hub_that_does_not_answer_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"spec.model.uri: hf://org/tiny could not be read from http://127.0.0.1:9"):
        fetch_model("hf://org/tiny", tmp_path / "cache")
