"""SIGKILL at random moments and bytes: what is visible is whole, what was acknowledged is there, the run goes on."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from byte_relay import byte_relay
from finetune_trainer.store import ObjectStore, RunLog, atomic, crc64nvme
from finetune_trainer.store.atomic import create_file
from finetune_trainer.store.objects import TEMPORARY_PREFIX
from mortal_writers import Heard, Life, begin, nursery
from small_run import ME, save
from soak import trials

LONGEST = 3.0  # most of a life behind its first acknowledgement, in saves
GENERATION = 12  # lives of one run
OVERHEAD = {"file": 2_000, "s3": 20_000}  # bytes of a save beside its objects: log entries, and with S3 the requests


def live_and_die(process: subprocess.Popen[str], life: Life, seconds: float) -> list[str]:
    """Start a writer, let it acknowledge something, kill it after `seconds` more; what it acknowledged."""
    heard = Heard()
    begin(process, life)
    while not (heard.pid and heard.acknowledged):
        heard.hear(process)
    select.select([], [], [], seconds)  # the moment of the kill is what is random here
    os.kill(heard.pid, signal.SIGKILL)
    while heard.hear(process):
        continue
    return heard.acknowledged


def seconds_per_save(process: subprocess.Popen[str], run: str) -> float:
    """How long a writer takes here from one acknowledgement to the next."""
    heard, moments = Heard(), list[float]()
    begin(process, Life(10**6, run))
    while len(heard.acknowledged) < 4:
        heard.hear(process)
        moments.append(time.monotonic())
    os.kill(heard.pid, signal.SIGKILL)
    while heard.hear(process):
        continue
    return (moments[-1] - moments[0]) / 4


def hidden(root: Path) -> list[str]:
    return [str(path) for path in root.rglob(f"{TEMPORARY_PREFIX}*")]


@pytest.fixture
def unfinished(store_uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], list[Any]]:
    """What there is of writes that never became objects: hidden files, or multipart uploads."""
    if store_uri.startswith("file://"):
        return lambda: hidden(tmp_path)
    bucket = request.getfixturevalue("bucket")
    return lambda: list(bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", []))


@trials(share=24, whole=100)
def test_a_killed_writer_leaves_whole_objects_and_every_acknowledged_one(
    trials: range, store: ObjectStore, store_uri: str, unfinished: Callable[[], list[Any]]
) -> None:
    with nursery(store_uri) as process:
        longest = LONGEST * seconds_per_save(process, "")
        for number in trials:
            acknowledged = live_and_die(process, Life(number), random.Random(number).uniform(0, longest))
            visible = [info.key for info in store.list(f"life{number:04d}/")]
            assert set(acknowledged) <= set(visible)
            assert len(visible) <= len(acknowledged) + 1
            for key in visible:
                assert key.endswith(f"{crc64nvme(store.get(key)):016x}"), f"{key} is torn"
            store.delete(visible)
    assert unfinished() == []


def check_survivors(store: ObjectStore, run: str, acknowledged: list[str], reached: int) -> int:
    """The newest step, of a run that was at `reached` before this life: every commit is whole, and none is missing."""
    steps = [int(step) for step in acknowledged]
    if steps:
        assert steps[0] in (reached + 1, reached + 2)  # one commit may be stored and not acknowledged
        assert steps == list(range(steps[0], steps[0] + len(steps)))
        reached = steps[-1]
    log = RunLog(store, run)
    found = log.latest_good()
    assert found.damaged == ()
    newest = -1 if found.entry is None else found.entry.step
    assert newest in (reached, reached + 1)
    assert all(log.verify(entry) == [] for entry in log.checkpoints())
    return newest


def claims_when_swept(store: ObjectStore, run: str) -> int:
    """How many lives had claimed the run, of which the next writer leaves nothing but what entries name."""
    log = RunLog(store, run)
    claims = len([entry for entry in log.entries() if entry.kind == "claim"])
    log.claim(ME).sweep()
    named = {ref.key for entry in log.checkpoints() for ref in entry.objects}
    assert {info.key for info in store.list(f"{run}/data/")} == named
    assert all(log.verify(entry) == [] for entry in log.checkpoints())
    return claims


def run_of(life: int) -> str:
    return f"team.job{life // GENERATION}"


@trials(share=24, whole=500)
def test_a_killed_run_goes_on_from_its_last_acknowledged_commit(
    trials: range, store: ObjectStore, store_uri: str, unfinished: Callable[[], list[Any]]
) -> None:
    reached = {run_of(-1): -1}
    with nursery(store_uri) as process:
        longest = LONGEST * seconds_per_save(process, run_of(-1))
        for number in trials:
            run = run_of(number)
            acknowledged = live_and_die(process, Life(number, run), random.Random(number).uniform(0, longest))
            assert acknowledged
            reached[run] = check_survivors(store, run, acknowledged, reached.get(run, -1))
    assert sum(claims_when_swept(store, run) for run in reached) == len(trials) + 1
    assert unfinished() == []


@contextmanager
def killing_at_bytes(uri: str, request: pytest.FixtureRequest) -> Iterator[Callable[[Life, int], list[str]]]:
    """A way to end a life behind so many bytes: of what it writes to files, or of its traffic with the S3 server."""
    if uri.startswith("file://"):
        with nursery(uri) as process:

            def die_writing(life: Life, size: int) -> list[str]:
                heard = Heard()
                begin(process, Life(life.number, life.run, life.size, written=size, unnamed=life.unnamed))
                while heard.hear(process):
                    continue
                return heard.acknowledged

            yield die_writing
        return
    port = request.getfixturevalue("bucket").server.port
    with byte_relay(port) as relay, nursery(uri, {"AWS_ENDPOINT_URL": relay.endpoint}) as process:

        def die_talking(life: Life, size: int) -> list[str]:
            heard, pid = Heard(), Future[int]()
            relay.allow(size, lambda: os.kill(pid.result(), signal.SIGKILL))
            begin(process, life)
            while heard.hear(process):
                if heard.pid and not pid.done():
                    pid.set_result(heard.pid)
            relay.settle()
            return heard.acknowledged

        yield die_talking


@trials(share=16, whole=500)
def test_a_run_that_is_killed_at_any_byte_loses_nothing_and_leaves_nothing(
    trials: range,
    store: ObjectStore,
    store_uri: str,
    unfinished: Callable[[], list[Any]],
    request: pytest.FixtureRequest,
) -> None:
    """Half of the lives save little, so that many kills meet a log entry."""
    reached: dict[str, int] = {}
    with killing_at_bytes(store_uri, request) as die:
        for number in trials:
            rng, run = random.Random(number), run_of(number)
            life = Life(number, run, rng.choice([100, 100_000]), unnamed=rng.random() < 0.5)
            save_bytes = 3 * life.size + OVERHEAD[store_uri.partition(":")[0]]
            acknowledged = die(life, rng.randrange(3 * save_bytes))
            reached[run] = check_survivors(store, run, acknowledged, reached.get(run, -1))
    assert sum(claims_when_swept(store, run) for run in reached) <= len(trials)
    assert unfinished() == []


def test_without_unnamed_files_a_create_is_as_exclusive_and_leaves_nothing(tmp_path: Path) -> None:
    """The way that file systems without O_TMPFILE take (NFS, macOS)."""
    path = tmp_path / "a" / "b"
    create_file(path, memoryview(b"first"), unnamed=False)
    with pytest.raises(FileExistsError):
        create_file(path, memoryview(b"second"), unnamed=False)
    assert path.read_bytes() == b"first"
    assert [one.name for one in path.parent.iterdir()] == ["b"]


def test_a_write_that_loses_its_temporary_file_to_a_sweep_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.store.file import FileStore

    monkeypatch.setattr(create_file, "__kwdefaults__", {"unnamed": False})
    store, sweeps = FileStore(tmp_path), iter(range(2))
    fill = atomic._fill

    def fill_and_lose(handle: int, data: memoryview) -> os.stat_result:
        status = fill(handle, data)
        if next(sweeps, None) is not None:
            assert hidden(tmp_path)
            store.discard_unfinished("team.job/")
            assert not hidden(tmp_path)
        return status

    monkeypatch.setattr(atomic, "_fill", fill_and_lose)
    writer = RunLog(store, "team.job").claim(ME)
    entry = save(writer, 1)
    assert next(sweeps, None) is None
    assert RunLog(store, "team.job").latest_good().entry == entry
