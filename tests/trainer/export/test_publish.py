"""Publishing: complete or not there, completed after a crash, and never over another run's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.export.publish import (
    CLAIM,
    MANIFEST,
    Exported,
    Manifest,
    OutputTaken,
    check_vacant,
    claim,
    find_manifest,
    seal,
    upload,
)
from finetune_trainer.store import ObjectStore, find_problems, open_store
from finetune_trainer.store.objects import TEMPORARY_PREFIX
from s3_bucket import Bucket

EXPORT = Exported(run_id="team.job", identity="a" * 64, step=12, seq=7, writer="b" * 16, format="Full")
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 500, "tensorboard/events": b""}


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "file":
        return open_store(f"file://{tmp_path}/out")
    bucket: Bucket = request.getfixturevalue("bucket")
    return open_store(f"{bucket.uri}/out")


@pytest.fixture
def local(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "local"


def publish(store: ObjectStore, local: Path, export: Exported = EXPORT) -> Manifest:
    claim(store, export, list(FILES))
    manifest = Manifest(
        export=export, files=tuple(upload(store, local / name, name) for name in FILES), result={"loss": 1.5}
    )
    seal(store, manifest)
    return manifest


def keys(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list()}


def test_a_published_export_is_found_with_its_result(store: ObjectStore, local: Path) -> None:
    assert find_manifest(store, EXPORT) is None
    manifest = publish(store, local)
    assert keys(store) == {*FILES, MANIFEST}
    assert find_manifest(store, EXPORT) == manifest
    assert find_problems(store, manifest.files) == []
    assert check_vacant(store, EXPORT.run_id, EXPORT.identity) is None


def test_what_a_killed_start_left_of_a_file_goes_with_the_next_start(local: Path, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/out")
    claim(store, EXPORT, list(FILES))
    half = tmp_path / "out" / f"{TEMPORARY_PREFIX}0123456789abcdef"
    half.write_bytes(b"half a model")
    publish(store, local)
    assert {path.name for path in half.parent.iterdir() if path.is_file()} == {
        "config.json",
        "model.safetensors",
        MANIFEST,
    }


def test_a_second_start_keeps_equal_files_and_replaces_unequal_ones(store: ObjectStore, local: Path) -> None:
    claim(store, EXPORT, [*FILES, "events.of.the.first.start"])
    store.create("events.of.the.first.start", b"old")
    store.create("config.json", b"{ }")
    kept = store.create("model.safetensors", FILES["model.safetensors"]).version
    assert find_manifest(store, EXPORT) is None
    manifest = publish(store, local)
    assert keys(store) == {*FILES, MANIFEST}
    assert find_problems(store, manifest.files) == []
    assert store.head("model.safetensors").version == kept


def test_a_claim_that_a_crash_left_behind_the_manifest_goes(store: ObjectStore, local: Path) -> None:
    publish(store, local)
    store.create(CLAIM, json.dumps({"export": EXPORT.model_dump(by_alias=True), "files": list(FILES)}).encode())
    assert find_manifest(store, EXPORT) is not None
    assert CLAIM not in keys(store)


@pytest.mark.parametrize("change", [{"run_id": "team.other"}, {"identity": "c" * 64}])
def test_another_runs_export_is_refused_and_untouched(store: ObjectStore, local: Path, change: dict[str, str]) -> None:
    publish(store, local, EXPORT.model_copy(update=change))
    before = {info.key: info.version for info in store.list()}
    for attempt in (
        lambda: check_vacant(store, EXPORT.run_id, EXPORT.identity),
        lambda: find_manifest(store, EXPORT),
        lambda: claim(store, EXPORT, list(FILES)),
    ):
        with pytest.raises(OutputTaken, match=r"spec\.output\.uri: .*another spec\.output\.uri"):
            attempt()
    assert {info.key: info.version for info in store.list()} == before


def test_another_runs_unfinished_export_is_refused(store: ObjectStore) -> None:
    claim(store, EXPORT.model_copy(update={"run_id": "team.other"}), list(FILES))
    with pytest.raises(OutputTaken, match=r"step 12 of the run team\.other"):
        claim(store, EXPORT, list(FILES))


@pytest.mark.parametrize("change", [{"step": 18}, {"format": "Merged"}, {"seq": 9}])
def test_another_export_of_the_same_run_is_refused(
    store: ObjectStore, local: Path, change: dict[str, int | str]
) -> None:
    publish(store, local)
    assert check_vacant(store, EXPORT.run_id, EXPORT.identity) is None
    with pytest.raises(OutputTaken, match=r"holds step 12 of the run team\.job as Full \(log entry 7\), not step"):
        claim(store, EXPORT.model_copy(update=change), list(FILES))


def test_files_of_nobody_are_refused(store: ObjectStore) -> None:
    store.create("model-00001-of-00002.safetensors", b"somebody's")
    with pytest.raises(OutputTaken, match=r"holds files of something else \(model-00001"):
        claim(store, EXPORT, list(FILES))


def test_a_folder_of_other_folders_is_vacant(store: ObjectStore) -> None:
    store.create("older/config.json", b"{}")
    assert check_vacant(store, EXPORT.run_id, EXPORT.identity) is None


def test_a_manifest_of_something_else_is_refused(store: ObjectStore) -> None:
    store.create(MANIFEST, b'{"layers": []}')
    with pytest.raises(OutputTaken, match=r"manifest\.json is of something else"):
        find_manifest(store, EXPORT)


def test_a_manifest_whose_file_was_deleted_says_so(store: ObjectStore, local: Path) -> None:
    publish(store, local)
    store.delete(["model.safetensors"])
    with pytest.raises(StorageError, match=r"lacks model\.safetensors .* delete manifest\.json and run the job again"):
        find_manifest(store, EXPORT)


def test_a_store_that_takes_no_file_says_so(local: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"cannot create .*/taken/model\.safetensors"):
        upload(open_store(f"file://{tmp_path}/taken"), local / "model.safetensors", "model.safetensors")
