"""Every store keeps the same promises, on a folder and on a real S3 server, in our way and in boto3's own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.store import ObjectExists, ObjectInfo, ObjectNotFound, ObjectStore, open_store, probe

RACERS = 16


def test_the_checksum_that_a_store_keeps_is_that_of_the_bytes(store: ObjectStore, store_uri: str) -> None:
    store.put("a", b"123456789")
    assert store.checksum("a") == (0xAE8B14860A799888 if store_uri.startswith("s3://") else None)
    with pytest.raises(ObjectNotFound):
        store.checksum("b")


def test_a_created_object_is_read_back(store: ObjectStore) -> None:
    info = store.create("a/b", b"payload")
    assert store.get("a/b") == b"payload"
    assert (info.key, info.size) == ("a/b", 7)
    assert store.head("a/b") == info
    assert list(store.list()) == [info]


def test_an_existing_object_is_not_overwritten_by_create(store: ObjectStore) -> None:
    store.create("a", b"first")
    with pytest.raises(ObjectExists, match="exists already"):
        store.create("a", b"second")
    assert store.get("a") == b"first"


def test_the_same_bytes_again_are_refused_too(store: ObjectStore) -> None:
    store.create("a", b"same")
    with pytest.raises(ObjectExists):
        store.create("a", b"same")


def test_put_replaces_an_object_and_changes_its_version(store: ObjectStore) -> None:
    first = store.put("metrics.jsonl", b"1\n")
    second = store.put("metrics.jsonl", b"1\n2\n")
    assert store.get("metrics.jsonl") == b"1\n2\n"
    assert first.version != second.version
    assert store.head("metrics.jsonl").version == second.version


@pytest.mark.parametrize("method", ["head", "get", "open"])
def test_a_missing_object_is_said_to_be_missing(store: ObjectStore, method: str) -> None:
    store.create("there", b"x")
    with pytest.raises(ObjectNotFound):
        getattr(store, method)("not/there")


def test_a_store_that_nobody_has_written_to_is_empty(store: ObjectStore) -> None:
    assert list(store.list()) == []
    assert list(store.list("a/b")) == []


def test_keys_keep_their_unicode_and_odd_characters(store: ObjectStore) -> None:
    keys = ["déjà/vu.json", "日本/語", "a b+c%20d", "x=1&y=2", "#?[1]", "emoji-🎉", "quote'\"<>", "back\\slash"]
    for key in keys:
        store.create(key, key.encode())
    assert sorted(info.key for info in store.list()) == sorted(keys)
    assert all(store.get(key) == key.encode() for key in keys)
    store.delete(keys)
    assert list(store.list()) == []


def test_lists_are_in_byte_order_of_whole_keys(store: ObjectStore) -> None:
    keys = ["a-b", "a/b", "a/b-c", "a.b/c", "a0", "A", "a/c/d", "é", "z", "a/b.d/e", "Ω/1", "0"]
    for key in keys:
        store.create(key, b"x")
    assert [info.key for info in store.list()] == sorted(keys, key=str.encode)


def test_lists_filter_by_prefix_start_and_depth(store: ObjectStore) -> None:
    for key in ["log/1", "log/2", "log/3", "log/old/1", "logs/1", "data/1"]:
        store.create(key, b"x")

    def keys(prefix: str, after: str = "", recursive: bool = True) -> list[str]:
        return [info.key for info in store.list(prefix, after=after, recursive=recursive)]

    assert keys("log/") == ["log/1", "log/2", "log/3", "log/old/1"]
    assert keys("log/", recursive=False) == ["log/1", "log/2", "log/3"]
    assert keys("log/", after="log/2") == ["log/3", "log/old/1"]
    assert keys("lo") == ["log/1", "log/2", "log/3", "log/old/1", "logs/1"]
    assert keys("log/o") == ["log/old/1"]
    assert keys("", recursive=False) == []
    assert keys("nothing/") == []


def test_more_objects_than_a_page_of_a_listing_are_listed_and_deleted(store: ObjectStore) -> None:
    names = [f"many/{index:04d}" for index in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert [info.key for info in store.list("many/")] == names
    store.delete(iter(names))
    assert list(store.list("many/")) == []


def test_deleting_what_is_not_there_is_no_error(store: ObjectStore) -> None:
    store.create("kept", b"x")
    store.create("gone/1", b"x")
    store.delete(["gone/1", "gone/2", "never"])
    assert [info.key for info in store.list()] == ["kept"]
    store.delete([])


@pytest.mark.parametrize("key", ["../out", "a/../../out", "/abs", "a//b", "a/", "", ".", "a/./b", "x" * 256, "a\0b"])
def test_keys_that_leave_the_root_or_fit_no_store_are_refused(store: ObjectStore, key: str) -> None:
    for write in (store.create, store.put):
        with pytest.raises(StorageError, match=r"segment|longer|NUL"):
            write(key, b"x")
    assert list(store.list()) == []


def test_of_many_threads_exactly_one_creates_a_key(store: ObjectStore) -> None:
    def create(payload: bytes) -> bool:
        try:
            store.create("contested", payload)
        except ObjectExists:
            return False
        return True

    payloads = [f"writer {index}".encode() * 1000 for index in range(RACERS)]
    with ThreadPoolExecutor(RACERS) as pool:
        won = [payload for payload, winner in zip(payloads, pool.map(create, payloads), strict=True) if winner]
    assert won == [store.get("contested")]


PROCESS_RACER = """
import sys
from finetune_trainer.store import ObjectExists, open_store
store, me = open_store(sys.argv[1]), sys.argv[2]
list(store.list())
print("ready", flush=True)
for line in sys.stdin:
    try:
        store.create(f"contested/{line.strip()}", (me * 1000).encode())
        print("won", flush=True)
    except ObjectExists:
        print("lost", flush=True)
"""


def test_of_several_processes_exactly_one_creates_each_key(store: ObjectStore, store_uri: str) -> None:
    command = [sys.executable, "-c", PROCESS_RACER, store_uri]
    racers = [
        subprocess.Popen([*command, str(me)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for me in range(4)
    ]
    try:
        assert _answers(racers, "") == ["ready"] * 4
        for name in range(25):
            answers = _answers(racers, f"{name}\n")
            assert sorted(answers) == ["lost", "lost", "lost", "won"]
            assert store.get(f"contested/{name}") == str(answers.index("won")).encode() * 1000
    finally:
        for racer in racers:
            racer.communicate()


def _answers(racers: list[subprocess.Popen[str]], line: str) -> list[str]:
    """Tell every racer to start, then take one line from each."""
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(line)
        racer.stdin.flush()
    return [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]


def test_a_store_works_after_pickling_and_after_a_fork(store: ObjectStore) -> None:
    store.create("a", b"x")
    copy: ObjectStore = pickle.loads(pickle.dumps(store))
    assert copy.uri == store.uri
    assert copy.get("a") == b"x"
    child = os.fork()
    if child == 0:
        os._exit(0 if store.get("a") == b"x" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get("a") == b"x"


def test_the_probe_accepts_a_store_and_leaves_nothing(store: ObjectStore) -> None:
    probe(store)
    assert list(store.list()) == []


def test_versions_of_listed_and_looked_up_objects_agree(store: ObjectStore) -> None:
    store.create("a", b"x")
    (listed,) = store.list()
    assert listed == store.head("a")
    assert isinstance(listed, ObjectInfo)


def test_a_malformed_address_says_what_to_write() -> None:
    for uri, text in [
        ("/data", "file:///absolute/path"),
        ("file://data", "file:///absolute/path"),
        ("gs://bucket/x", "s3://<bucket>/<prefix>"),
        ("s3:///x", "names no bucket"),
    ]:
        with pytest.raises(StorageError, match=text):
            open_store(uri)


def test_two_spellings_of_a_folder_are_one_store(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}/a/").uri == open_store(f"file://{tmp_path}//a/b/..").uri
