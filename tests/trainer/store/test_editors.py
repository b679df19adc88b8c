"""People beside a run that trains: they pin, set aside and give up checkpoints, and fence nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.store import Checkpoint, Identity, RunLog, Writer, copy_checkpoint, open_store

ME = Identity(hash="0" * 64)


def save(writer: Writer, step: int, parent: Checkpoint | None = None) -> Checkpoint:
    prefix = writer.new_checkpoint(step)
    refs = [writer.write(prefix, name, f"{name} of {step}".encode()) for name in ("a", "b")]
    return writer.commit(step, parent.seq if parent else None, refs, {"metrics": {"evalLoss": float(step)}})


def reopened(log: RunLog) -> RunLog:
    return RunLog(log.journal.store, log.journal.run_id, log.journal.clock)


def test_an_editor_and_the_run_write_in_turns_and_neither_is_fenced(log: RunLog) -> None:
    trainer = log.claim(ME)
    first = save(trainer, 1)
    editor = reopened(log).editor()
    editor.pin(first)
    second = save(trainer, 2, first)
    third = save(trainer, 3, second)
    assert trainer.retire(third, keep_last=1) == (second.seq,), "the pin counts in the run's next decision"
    editor.quarantine(first, "of no use")
    assert [entry.seq for entry in log.checkpoints()] == [third.seq]
    kinds = [entry.kind for entry in log.entries()]
    assert kinds == ["claim", "checkpoint", "pin", "checkpoint", "checkpoint", "retire", "quarantine"]
    assert {entry.writer for entry in log.entries()} == {trainer.id}


def test_a_claim_between_the_look_and_the_edit_stops_the_edit(log: RunLog) -> None:
    first = save(log.claim(ME), 1)
    editor = reopened(log).editor()
    log.claim(ME)
    with pytest.raises(StorageError, match="was claimed by attempt 2"):
        editor.pin(first)


def test_an_editor_needs_a_run(log: RunLog) -> None:
    with pytest.raises(StorageError, match="there is no run in"):
        log.editor()


def test_one_checkpoint_is_given_up_with_its_objects_and_no_other(log: RunLog) -> None:
    trainer = log.claim(ME)
    first = save(trainer, 1)
    second = save(trainer, 2, first)
    third = save(trainer, 3, second)
    editor = reopened(log).editor()
    assert editor.discard(second) == (second.seq,)
    assert editor.discard(second) == ()
    assert [entry.seq for entry in log.checkpoints()] == [first.seq, third.seq]
    kept = {ref.key for entry in (first, third) for ref in entry.objects}
    assert {info.key for info in log.journal.store.list(log.journal.data)} == kept


def test_the_newest_good_checkpoint_and_pinned_ones_stay(log: RunLog) -> None:
    trainer = log.claim(ME)
    first = save(trainer, 1)
    second = save(trainer, 2, first)
    editor = reopened(log).editor()
    editor.pin(first)
    with pytest.raises(StorageError, match=r"checkpoint 2 of .* is pinned: unpin it first"):
        editor.discard(first)
    with pytest.raises(StorageError, match=r"checkpoint 3 of .* is the newest good one"):
        editor.discard(second)
    editor.quarantine(second, "damaged")
    assert editor.discard(second) == (second.seq,)
    assert all(log.journal.store.head(ref.key) for ref in first.objects)


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_copy_is_a_run_with_one_whole_commit(
    log: RunLog, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trainer = log.claim(ME)
    entry = save(trainer, 7, save(trainer, 6))
    place = f"file://{tmp_path / 'copies'}" if kind == "file" else f"{request.getfixturevalue('bucket').uri}/copies"
    target = RunLog(open_store(place), "team.copy")
    seen: list[int] = []
    made = copy_checkpoint(log, entry, target, lambda ref: seen.append(ref.size))
    (found,) = RunLog(open_store(place), "team.copy").checkpoints()
    assert (found, found.step, found.body) == (made, 7, entry.body)
    assert target.verify(found) == []
    assert seen == [ref.size for ref in entry.objects]
    assert [ref.crc64 for ref in found.objects] == [ref.crc64 for ref in entry.objects]
    with pytest.raises(StorageError, match="a run has begun in"):
        copy_checkpoint(log, entry, target)


def test_a_damaged_object_is_not_copied_and_nothing_is_committed(log: RunLog, tmp_path: Path) -> None:
    entry = save(log.claim(ME), 7)
    log.journal.store.put(entry.objects[1].key, b"b of 8")
    target = RunLog(open_store(f"file://{tmp_path / 'copies'}"), "team.copy")
    with pytest.raises(StorageError, match=f"{entry.objects[1].key} is damaged"):
        copy_checkpoint(log, entry, target)
    assert target.checkpoints() == []
    log.journal.store.put(entry.objects[1].key, b"b of 7")
    assert copy_checkpoint(log, entry, target).step == 7
    assert target.claim(ME, attempt=1).attempt == 1, "a copy that was made twice fences no first attempt"
    log.editor().quarantine(entry, "damaged")
    with pytest.raises(StorageError, match="is quarantined: name a good one"):
        copy_checkpoint(log, entry, RunLog(open_store(f"file://{tmp_path / 'more'}"), "team.copy"))


def test_nothing_is_copied_over_a_run_that_has_committed_nothing_yet(log: RunLog, tmp_path: Path) -> None:
    entry = save(log.claim(ME), 7)
    target = RunLog(open_store(f"file://{tmp_path / 'copies'}"), "team.copy")
    running = target.claim(ME, attempt=1)
    with pytest.raises(StorageError, match="a run has begun in"):
        copy_checkpoint(log, entry, target)
    assert save(running, 1).step == 1


def test_what_a_removal_that_was_cut_short_left_is_swept_and_no_save_that_goes_on(log: RunLog) -> None:
    trainer = log.claim(ME)
    first = save(trainer, 1)
    second = save(trainer, 2, first)
    left = {ref.key: log.journal.store.get(ref.key) for ref in first.objects}
    reopened(log).editor().discard(first)
    for key, data in left.items():
        log.journal.store.put(key, data)
    saving = trainer.write(trainer.new_checkpoint(3), "half", b"half")
    assert reopened(log).editor().sweep() == [f"{first.objects[0].key.rpartition('/')[0]}/"]
    kept = {saving.key, *(ref.key for ref in second.objects)}
    assert {info.key for info in log.journal.store.list(log.journal.data)} == kept
