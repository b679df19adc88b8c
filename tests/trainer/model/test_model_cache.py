"""The node's cache of weights: fetched once, checked before use, within its size, no way around a store's rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import tiny_models
from faulty_proxy import FaultyProxy, faulty_proxy
from finetune_trainer.model.cache import checksum_of
from finetune_trainer.store import crc64_hex, crc64nvme
from s3_bucket import Bucket

# A run as far as the cache sees it: it fetches, says what it has, and uses it until its standard input ends.
RUN = """
import os, sys
from pathlib import Path
from finetune_trainer.model.fetch import fetch_model
die = len(sys.argv) > 3
def progress(here, total):
    if die and here > total // 2:
        os.kill(os.getpid(), 9)
print(fetch_model(sys.argv[1], Path(sys.argv[2]), progress=progress), flush=True)
sys.stdin.read()
"""


@dataclass
class Node:
    """A node with a cache; each run on it has a workdir of its own, as a pod has."""

    uri: str
    weights: dict[str, bytes]
    folder: Path
    proxy: FaultyProxy
    environment: dict[str, str]
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def cached(self) -> list[Path]:
        """The cached objects, the largest first."""
        found = [path for path in self.cache.iterdir() if "." not in path.name and path.name != "lock"]
        return sorted(found, key=lambda path: path.stat().st_size, reverse=True)

    def start(
        self, uri: str | None = None, more: dict[str, str] | None = None, *arguments: str
    ) -> subprocess.Popen[str]:
        """Start a run that fetches a model."""
        workdir = self.folder / f"workdir-{len(self.runs)}"
        command = [sys.executable, "-c", RUN, uri or self.uri, str(workdir), *arguments]
        run = subprocess.Popen(
            command, env=os.environ | self.environment | (more or {}), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.runs.append(run)
        return run

    def fetch(self, uri: str | None = None, **more: str) -> tuple[Path, str]:
        """The folder of a run that has ended, and what it warned of."""
        output, errors = self.start(uri, more).communicate()
        assert output, errors
        return Path(output.strip()), errors

    def reads(self) -> int:
        """How many requests have read weights."""
        return self.proxy.count("GET", "-of-")


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def upload(bucket: Bucket, folder: Path, prefix: str) -> str:
    for path in folder.iterdir():
        bucket.client.put_object(Bucket=bucket.name, Key=f"{prefix}/{path.name}", Body=path.read_bytes())
    return f"{bucket.uri}/{prefix}"


@pytest.fixture
def node(tmp_path: Path, bucket: Bucket) -> Iterator[Node]:
    model = tiny_models.save("llama", tmp_path / "model", shard_size="20KB")
    (model / "tokenizer.json").write_text("{}")
    with faulty_proxy(bucket.server.port) as proxy:
        environment = {**bucket.env, "AWS_ENDPOINT_URL": proxy.endpoint, "FINETUNE_CACHE_DIR": str(tmp_path / "cache")}
        one = Node(upload(bucket, model, "models/tiny"), weights(model), tmp_path, proxy, environment)
        yield one
        for run in one.runs:
            run.kill()
            run.communicate()


def test_the_next_run_on_the_node_reads_no_weights(node: Node) -> None:
    first, _ = node.fetch()
    assert node.reads() == len(node.weights)
    second, _ = node.fetch()
    assert node.reads() == len(node.weights)
    assert first != second
    assert weights(first) == weights(second) == node.weights


def test_runs_that_start_together_read_the_weights_once(node: Node) -> None:
    runs = [node.start() for _ in range(3)]
    folders = [Path(run.communicate()[0].strip()) for run in runs]
    assert node.reads() == len(node.weights)
    assert all(weights(folder) == node.weights for folder in folders)


def test_a_damaged_file_is_found_and_fetched_again(node: Node) -> None:
    node.fetch()
    (damaged, *_) = node.cached
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    before = node.reads()
    folder, told = node.fetch()
    assert weights(folder) == node.weights
    assert node.reads() == before + 1
    assert f"{damaged} is damaged and fetched again" in told


def test_what_one_rank_has_verified_is_looked_at_again_when_somebody_writes_to_it(node: Node) -> None:
    workdir = str(node.folder / "workdir-of-all-ranks")
    for damage in (None, b"x", None):
        if damage is not None:
            with node.cached[0].open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(damage)
        command = [sys.executable, "-c", RUN, node.uri, workdir]
        done = subprocess.run(
            command, env=os.environ | node.environment, input="", capture_output=True, text=True, check=True
        )
        assert weights(Path(done.stdout.strip())) == node.weights
    assert node.reads() == len(node.weights) + 1


def test_an_object_that_has_changed_in_the_store_is_fetched(node: Node, bucket: Bucket) -> None:
    node.fetch()
    name = min(node.weights)
    changed = node.weights[name][::-1]
    bucket.client.put_object(Bucket=bucket.name, Key=f"models/tiny/{name}", Body=changed)
    folder, _ = node.fetch()
    assert weights(folder) == node.weights | {name: changed}


def test_what_a_killed_run_has_fetched_is_kept_and_completed(node: Node) -> None:
    killed = node.start(None, None, "die")
    killed.communicate()
    assert killed.returncode == -9
    folder, _ = node.fetch()
    assert weights(folder) == node.weights
    assert not list(node.cache.glob("*.partial"))


def other_model(bucket: Bucket, folder: Path, seed: int) -> str:
    model = tiny_models.save("llama", folder / f"model-{seed}", shard_size="20KB", seed=seed)
    (model / "tokenizer.json").write_text("{}")
    return upload(bucket, model, f"models/{seed}")


def test_the_least_recently_used_goes_when_the_size_is_reached(node: Node, bucket: Bucket) -> None:
    size = sum(len(data) for data in node.weights.values())
    others = [other_model(bucket, node.folder, seed) for seed in (1, 2)]
    limit = str(2 * size)
    for uri in (node.uri, others[0], node.uri):
        node.fetch(uri, FINETUNE_CACHE_BYTES=limit)
    node.fetch(others[1], FINETUNE_CACHE_BYTES=limit)
    assert sum(path.stat().st_size for path in node.cached) <= 2 * size
    before = node.reads()
    node.fetch(node.uri, FINETUNE_CACHE_BYTES=limit)
    assert node.reads() == before
    node.fetch(others[0], FINETUNE_CACHE_BYTES=limit)
    assert node.reads() == before + len(node.weights)


def test_what_a_run_uses_stays_and_who_finds_no_room_fetches_for_itself(node: Node, bucket: Bucket) -> None:
    size = sum(len(data) for data in node.weights.values())
    user = node.start(node.uri, {"FINETUNE_CACHE_BYTES": str(size)})
    assert user.stdout is not None
    used = Path(user.stdout.readline().strip())
    folder, told = node.fetch(other_model(bucket, node.folder, 1), FINETUNE_CACHE_BYTES=str(size))
    assert weights(used) == node.weights
    assert weights(folder) == weights(node.folder / "model-1")
    assert "which this run fetches for itself" in told
    assert f"more than FINETUNE_CACHE_BYTES ({size}) allows" in told


def test_a_cache_that_cannot_be_written_is_said_and_done_without(node: Node) -> None:
    folder, told = node.fetch(FINETUNE_CACHE_DIR="/sys/no-cache")
    assert weights(folder) == node.weights
    assert "FINETUNE_CACHE_DIR (/sys/no-cache) cannot keep" in told


def test_a_full_disk_is_said_and_done_without(node: Node) -> None:
    mount = 'mkdir "$1" && mount -t tmpfs -o size=64k tmpfs "$1" && shift && exec "$@"'
    unshare = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*unshare, str(node.folder / "probe"), "true"], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small tmpfs in a user namespace (unshare): a real full disk is NOT tested here")
    assert sum(len(data) for data in node.weights.values()) > 64 * 1024
    command = [*unshare, str(node.cache), sys.executable, "-c", RUN, node.uri, str(node.folder / "workdir")]
    done = subprocess.run(
        command, env=os.environ | node.environment, input="", capture_output=True, text=True, check=True
    )
    assert "No space left on device" in done.stderr
    names = {path.name for path in Path(done.stdout.strip()).glob("*.safetensors") if path.exists()}
    assert names, "nothing was fetched into the run's own folder"


def test_who_may_not_read_the_model_does_not_get_it_from_the_cache(node: Node, bucket: Bucket) -> None:
    node.fetch()
    stranger = bucket.server.add_user("stranger", f"{bucket.name}-stranger").environment()
    run = node.start(node.uri, stranger)
    _, errors = run.communicate()
    assert run.returncode != 0
    assert f"on the bucket '{bucket.name}'" in errors


def test_without_a_cache_the_weights_lie_in_the_runs_own_folder(node: Node) -> None:
    folder, _ = node.fetch(FINETUNE_CACHE_DIR="")
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert not node.cache.exists()


def test_a_files_checksum_does_not_depend_on_how_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 100_000)
    assert checksum_of(path) == crc64_hex(crc64nvme(path.read_bytes()))
