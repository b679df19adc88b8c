"""What retention gives up, and that nothing which is needed is ever deleted, whatever happens on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from finetune_trainer.errors import StorageError
from finetune_trainer.store import Checkpoint, Fenced, ObjectInfo, ObjectStore, RunLog, Writer
from finetune_trainer.store.file import FileStore
from finetune_trainer.store.folders import folder_of
from finetune_trainer.store.retention import Candidate, to_retire
from small_run import ME, damage, reopened, save

SCORES = [None, 3.0, 1.0, 2.0, 1.0]


def candidates(scores: Iterable[float | None] = SCORES) -> list[Candidate]:
    return [Candidate(index, score) for index, score in enumerate(scores, start=1)]


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "verified", "retired"),
    [
        (1, 0, 5, (1, 2, 3, 4)),
        (2, 0, 5, (1, 2, 3)),
        (1, 1, 5, (1, 2, 3, 4)),  # 5 is as good as 3, and newer
        (1, 2, 5, (1, 2, 4)),
        (1, 3, 5, (1, 2)),
        (1, 9, 5, (1,)),
        (9, 0, 5, ()),
        (1, 0, 3, (1, 2)),  # nothing at or above what is known to be good
        (0, 0, 5, (1, 2, 3, 4)),
        (1, 0, 9, ()),
    ],
)
def test_the_newest_and_the_best_are_kept(
    keep_last: int, keep_best: int, verified: int, retired: tuple[int, ...]
) -> None:
    assert to_retire(candidates(), verified=verified, keep_last=keep_last, keep_best=keep_best) == retired


def test_pinned_ones_are_kept_and_quarantined_ones_take_no_place() -> None:
    ones = [Candidate(1, 1.0, pinned=True), Candidate(2, 2.0), Candidate(3, 0.5, quarantined=True), Candidate(4, 3.0)]
    assert to_retire(ones, verified=4, keep_last=2, keep_best=1) == (3,)
    assert to_retire(ones, verified=4, keep_last=1, keep_best=0) == (2, 3)
    assert to_retire(ones, verified=3, keep_last=1, keep_best=0) == ()


@given(
    flags=st.lists(st.tuples(st.none() | st.floats(0, 9), st.booleans(), st.booleans()), max_size=12),
    verified=st.integers(1, 13),
    keep_last=st.integers(0, 4),
    keep_best=st.integers(0, 4),
)
def test_whatever_is_kept_the_last_good_one_and_the_promised_numbers_are(
    flags: list[tuple[float | None, bool, bool]], verified: int, keep_last: int, keep_best: int
) -> None:
    ones = [Candidate(seq, score, pinned, bad) for seq, (score, pinned, bad) in enumerate(flags, start=1)]
    retired = to_retire(ones, verified=verified, keep_last=keep_last, keep_best=keep_best)
    kept = [one for one in ones if one.seq not in retired]
    good = [one for one in kept if not one.quarantined]
    assert all(seq < verified for seq in retired)
    assert not any(one.pinned for one in ones if one.seq in retired)
    assert any(one.seq == verified and not one.quarantined for one in ones) or retired == ()
    all_good = [one for one in ones if not one.quarantined]
    assert len(good) >= min(keep_last, len(all_good))
    best = sorted(one.score for one in all_good if one.score is not None)[:keep_best]
    assert sorted(one.score for one in good if one.score is not None)[: len(best)] == best
    again = to_retire(kept, verified=verified, keep_last=keep_last, keep_best=keep_best)
    assert again == ()


def files(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list("team.job/data/")}


def test_retiring_deletes_the_objects_and_keeps_the_history(log: RunLog, store: ObjectStore) -> None:
    writer = log.claim(ME)
    entries = [save(writer, step, loss=loss) for step, loss in [(1, 1.0), (2, 5.0), (3, 4.0), (4, 3.0)]]
    assert writer.retire(entries[3], keep_last=1, keep_best=1) == (3, 4)
    assert reopened(log).checkpoints() == [entries[0], entries[3]]
    assert files(store) == {ref.key for entry in (entries[0], entries[3]) for ref in entry.objects}
    assert reopened(log).verify(entries[0]) == []
    assert [entry.kind for entry in reopened(log).entries()] == ["claim", *["checkpoint"] * 4, "retire"]
    assert writer.retire(entries[3], keep_last=1, keep_best=1) == ()
    assert len(log.entries()) == 6
    with pytest.raises(StorageError, match=r"checkpoint 3 \(step 2\) is retired"):
        writer.pin(entries[1])


def test_a_pinned_checkpoint_outlives_retention_until_it_is_unpinned(log: RunLog) -> None:
    writer = log.claim(ME)
    first, second = save(writer, 1), save(writer, 2)
    writer.pin(first)
    assert writer.retire(second, keep_last=1) == ()
    third = save(reopened(log).writer(writer.attempt, writer.id), 3)
    assert writer.retire(third, keep_last=1) == (second.seq,)
    assert reopened(log).history().pinned == {first.seq}
    writer.pin(first, pinned=False)
    assert writer.retire(third, keep_last=1) == (first.seq,)


def test_objects_that_a_live_checkpoint_names_are_not_deleted(log: RunLog, store: ObjectStore) -> None:
    """A checkpoint may name objects of an older one that did not change since."""
    writer = log.claim(ME)
    base = save(writer, 1)
    shared = base.objects[0]
    own = writer.write(writer.new_checkpoint(2), "state", b"new")
    second = writer.commit(2, base.seq, [shared, own], {})
    assert writer.retire(second, keep_last=1) == (base.seq,)
    assert files(store) == {shared.key, own.key}
    assert log.verify(second) == []


def test_reading_the_log_needs_no_entry_from_before_the_last_retirement(log: RunLog, store: ObjectStore) -> None:
    """So that a long run is opened as fast as a short one."""
    writer = log.claim(ME)
    for step in range(6):
        newest = save(writer, step)
        writer.retire(newest, keep_last=1)
    fresh = reopened(log)
    assert fresh.checkpoints() == [newest]
    read = set(fresh.journal._entries)
    assert read == {log.history().newest, newest.seq}
    assert fresh.claim(ME).attempt == 2


def test_orphans_are_the_folders_of_fenced_writers_that_nothing_names(log: RunLog, store: ObjectStore) -> None:
    dead = log.claim(ME)
    kept = save(dead, 1)
    half = dead.new_checkpoint(2)
    dead.write(half, "rank0/state", b"half a checkpoint")
    store.create("team.job/data/not-ours/file", b"x")
    assert dead.orphans() == []  # its own folders may still be on their way
    writer = reopened(log).claim(ME)
    mine = writer.new_checkpoint(2)
    writer.write(mine, "rank0/state", b"on its way")
    assert writer.orphans() == [half]
    assert writer.sweep() == [half]
    assert writer.sweep() == []
    assert files(store) == {*(ref.key for ref in kept.objects), f"{mine}rank0/state", "team.job/data/not-ours/file"}


def test_a_quarantined_checkpoint_is_kept_until_a_newer_good_one(log: RunLog, store: ObjectStore) -> None:
    writer = log.claim(ME)
    good, bad = save(writer, 1), save(writer, 2)
    damage(store, bad.objects[0], "flipped")
    writer.quarantine(bad, "flipped")
    successor = reopened(log).claim(ME)
    assert successor.retire(good, keep_last=1) == ()
    assert successor.orphans() == []
    newer = save(successor, 2, good)
    assert successor.retire(newer, keep_last=2) == (bad.seq,)
    assert files(store) == {ref.key for entry in (good, newer) for ref in entry.objects}


class InterruptedStore(FileStore):
    """A real folder where another process takes the run over while this one lists it."""

    interruption: Callable[[], object] | None = None

    def list(self, prefix: str = "", *, after: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        if self.interruption is not None and prefix.endswith("/data/"):
            action, self.interruption = self.interruption, None
            action()
        return super().list(prefix, after=after, recursive=recursive)


def test_a_writer_that_is_fenced_while_it_sweeps_deletes_nothing_of_its_successor(tmp_path: Path) -> None:
    store = InterruptedStore(tmp_path)
    writer = RunLog(store, "team.job").claim(ME)
    save(writer, 1)

    def take_over() -> None:
        successor = RunLog(FileStore(tmp_path), "team.job").claim(ME)
        successor.write(successor.new_checkpoint(2), "rank0/state", b"on its way")

    store.interruption = take_over
    with pytest.raises(Fenced):
        writer.sweep()
    assert len(files(store)) == 3


class Crash(Exception):
    """The process ends here."""


class CrashingStore(FileStore):
    """A real folder that the process stops writing to after `left` more changes; single deletions count."""

    left = 10**9

    def _step(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1

    def create(self, key: str, data: Buffer, *, crc64: int | None = None) -> ObjectInfo:
        self._step()
        return super().create(key, data, crc64=crc64)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._step()
            super().delete([key])


@pytest.mark.parametrize("survived", range(12))
def test_a_crash_at_any_change_loses_nothing_and_the_next_writer_cleans_up(tmp_path: Path, survived: int) -> None:
    store = CrashingStore(tmp_path)
    log = RunLog(store, "team.job")
    writer = log.claim(ME)
    old = save(writer, 1)
    good = save(writer, 2, old)
    store.left = survived
    with pytest.raises(Crash):
        newer = save(writer, 3, good)
        writer.retire(newer, keep_last=1)
        save(writer, 4, newer)
        save(writer, 5, newer)
    fresh = RunLog(FileStore(tmp_path), "team.job")
    found = fresh.latest_good()
    assert found.damaged == ()
    assert found.entry is not None
    assert found.entry.step >= 2
    assert all(fresh.verify(entry) == [] for entry in fresh.checkpoints())
    successor = fresh.claim(ME)
    successor.sweep()
    named = {ref.key for entry in fresh.checkpoints() for ref in entry.objects}
    assert files(FileStore(tmp_path)) == named


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.floats(0, 9)),
        st.tuples(st.sampled_from(["quarantine", "pin", "unpin", "retire"]), st.integers(0, 9)),
        st.tuples(st.sampled_from(["claim", "sweep", "abandon"]), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, keep_last=st.integers(1, 3), keep_best=st.integers(0, 2))
def test_no_history_of_a_run_loses_the_last_good_checkpoint(
    steps: list[tuple[str, float]], keep_last: int, keep_best: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = FileStore(Path(folder))
        log = RunLog(store, "team.job")
        writer = log.claim(ME)
        for number, (action, value) in enumerate(steps):
            writer = _act(log, writer, action, value, number, (keep_last, keep_best))
            live = RunLog(store, "team.job")
            good = live.checkpoints()
            assert good == log.checkpoints()
            assert all(live.verify(entry) == [] for entry in good)
            named = {folder_of("team.job/data/", ref.key) for entry in good for ref in entry.objects}
            assert named <= {folder_of("team.job/data/", key) for key in files(store)}
        saved = any(isinstance(entry, Checkpoint) for entry in log.entries())
        quarantined = any(entry.kind == "quarantine" for entry in log.entries())
        assert log.checkpoints() or not saved or quarantined


def _act(log: RunLog, writer: Writer, action: str, value: float, number: int, keep: tuple[int, int]) -> Writer:
    good = log.checkpoints()
    if action == "claim":
        return log.claim(ME)
    if action == "save":
        save(writer, number, good[-1] if good else None, loss=value)
    elif action == "abandon":
        writer.write(writer.new_checkpoint(number), "rank0/state", b"never committed")
    elif action == "sweep":
        writer.sweep()
    elif good:
        target = good[int(value) % len(good)]
        if action == "quarantine":
            writer.quarantine(target, "for this test")
        elif action == "retire":
            writer.retire(good[-1], keep_last=keep[0], keep_best=keep[1])
        else:
            writer.pin(target, pinned=action == "pin")
    return writer
