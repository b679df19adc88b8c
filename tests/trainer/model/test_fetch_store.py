"""file:// in place and s3:// through a mirror: complete, resumed, current, and refused with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny_models
from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.model import mirror
from finetune_trainer.model.fetch import fetch_model, fetch_tokenizer
from ranks import run_ranks
from s3_bucket import Bucket


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tiny_models.save("llama", tmp_path / "model", shard_size="20KB")
    (path / "tokenizer.json").write_text("{}")
    return path


def _upload(bucket: Bucket, folder: Path, prefix: str = "models/tiny") -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.client.put_object(
                Bucket=bucket.name, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes()
            )
    return f"{bucket.uri}/{prefix}"


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_local_folder_is_used_in_place(folder: Path, tmp_path: Path) -> None:
    assert fetch_model(f"file://{folder}", tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


def test_s3_brings_the_models_files_and_no_others(folder: Path, tmp_path: Path, bucket: Bucket) -> None:
    expected = _content(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "consolidated.safetensors").write_bytes(b"other")
    (folder / "original").mkdir()
    (folder / "original" / "config.json").write_text("{}")
    seen: list[tuple[int, int]] = []
    fetched = fetch_model(_upload(bucket, folder), tmp_path / "cache", progress=lambda *done: seen.append(done))
    assert _content(fetched) == expected
    total = sum(len(data) for data in expected.values())
    assert seen[-1] == (total, total)
    assert [here for here, _ in seen] == sorted(here for here, _ in seen)


def test_a_tokenizer_is_read_without_weights_which_a_later_fetch_adds(
    folder: Path, tmp_path: Path, bucket: Bucket
) -> None:
    uri, expected = _upload(bucket, folder), _content(folder)
    fetched = fetch_tokenizer(uri, tmp_path / "cache")
    assert _content(fetched) == {name: data for name, data in expected.items() if not name.endswith(".safetensors")}
    assert fetch_model(uri, tmp_path / "cache") == fetched
    assert _content(fetch_tokenizer(uri, tmp_path / "cache")) == expected


def test_nothing_is_read_twice(folder: Path, tmp_path: Path, bucket: Bucket) -> None:
    uri = _upload(bucket, folder)
    fetched = fetch_model(uri, tmp_path / "cache")
    before = {path.name: path.stat().st_ino for path in fetched.iterdir()}
    assert fetch_model(uri, tmp_path / "cache") == fetched
    names = _content(fetched)
    assert {name: (fetched / name).stat().st_ino for name in names} == {name: before[name] for name in names}


def test_a_new_version_replaces_the_old_one(folder: Path, tmp_path: Path, bucket: Bucket) -> None:
    (folder / "chat_template.jinja").write_text("old")
    uri = _upload(bucket, folder)
    fetch_model(uri, tmp_path / "cache")
    shutil.rmtree(folder)
    tiny_models.save("llama", folder, seed=1, shard_size="30KB")
    for item in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]:
        bucket.client.delete_object(Bucket=bucket.name, Key=item["Key"])
    assert _content(fetch_model(_upload(bucket, folder), tmp_path / "cache")) == _content(folder)


def test_an_interrupted_read_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = _upload(bucket, folder)
    monkeypatch.setattr(mirror, "CHUNK_BYTES", 1000)
    counts: list[int] = []

    def stop_halfway(here: int, total: int) -> None:
        counts.append(here)
        if here > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model(uri, tmp_path / "cache", progress=stop_halfway)
    again: list[int] = []
    fetched = fetch_model(uri, tmp_path / "cache", progress=lambda here, _: again.append(here))
    assert _content(fetched) == _content(folder)
    assert again[0] > 0
    assert len(again) < len(counts) + 20


def test_an_object_that_shrinks_while_it_is_read_is_an_error(
    folder: Path, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = _upload(bucket, folder)
    monkeypatch.setattr(mirror, "CHUNK_BYTES", 5000)
    shard = next(path.name for path in folder.glob("model-00001*"))

    def replace_it(here: int, total: int) -> None:
        bucket.client.put_object(Bucket=bucket.name, Key=f"models/tiny/{shard}", Body=b"short")

    with pytest.raises(StorageError, match=shard):
        fetch_model(uri, tmp_path / "cache", progress=replace_it)
    assert not list((tmp_path / "cache").rglob(shard))


def test_ranks_of_one_node_read_the_model_once(folder: Path, tmp_path: Path, bucket: Bucket) -> None:
    payload = {"uri": _upload(bucket, folder), "cache": str(tmp_path / "cache")}
    results = run_ranks(2, "tests/trainer/model/ranks_fetch.py:fetch", payload)
    assert results[0]["folder"] == results[1]["folder"]
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert sorted(result["read"] >= weights for result in results) == [False, True]


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_shard(folder: Path) -> None:
    next(folder.glob("model-00002*")).unlink()


def _no_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def _only_pickles(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


def _remote_code(folder: Path) -> None:
    _edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"})


def _outside(folder: Path) -> None:
    _edit(folder / "model.safetensors.index.json", weight_map={"lm_head.weight": "../secret.safetensors"})


def _quantised(folder: Path) -> None:
    _edit(folder / "config.json", quantization_config={"quant_method": "mxfp4"})


def _own_weights_name(folder: Path) -> None:
    _edit(folder / "config.json", transformers_weights="/etc/weights.safetensors")


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BAD_FOLDERS: dict[Callable[[Path], None], str] = {
    _no_config: r"has no config\.json",
    _no_shard: r"lacks model-00002-of-\d+\.safetensors, which model\.safetensors\.index\.json names",
    _no_index: r"has model-00001-of-\d+\.safetensors.* but no model\.safetensors\.index\.json",
    _only_pickles: r"has only pytorch_model\.bin, which cannot be read safely: convert to safetensors",
    _remote_code: r"config\.json has `auto_map`, which runs Python code",
    _outside: r"names '\.\./secret\.safetensors': shards must be plain",
    _quantised: r"holds quantised weights: write a model in bfloat16",
    _own_weights_name: r"has `transformers_weights`",
    _adapter: r"holds a LoRA adapter: write the folder of the base",
    _broken_config: r"config\.json is no JSON",
}


@pytest.mark.parametrize("spoil", BAD_FOLDERS, ids=lambda spoil: spoil.__name__.strip("_"))
@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_a_folder_that_is_no_safe_model_is_refused(
    folder: Path, tmp_path: Path, request: pytest.FixtureRequest, spoil: Callable[[Path], None], scheme: str
) -> None:
    spoil(folder)
    uri = f"file://{folder}" if scheme == "file" else _upload(request.getfixturevalue("bucket"), folder)
    with pytest.raises(DataError, match=rf"spec\.model\.uri: {uri}.*{BAD_FOLDERS[spoil]}"):
        fetch_model(uri, tmp_path / "cache")


def test_a_bucket_that_does_not_exist_is_named_with_its_field(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^spec\.model\.uri: .*'no-such-bucket-here' does not exist"):
        fetch_model("s3://no-such-bucket-here/models/tiny", tmp_path)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"file:///nowhere is no folder: write the folder that holds config\.json"):
        fetch_model("file:///nowhere", tmp_path)
