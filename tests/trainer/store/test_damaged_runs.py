"""Damage to a run's objects and entries is found, named, and walked past where that is possible."""

from __future__ import annotations

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.store import CorruptObject, ObjectStore, Quarantine, RunLog, read_verified
from small_run import ME, damage, reopened, save

DAMAGE = {
    "flipped": "is damaged: its CRC64NVME is",
    "truncated": "bytes, not",
    "grown": "has more than",
    "missing": "is missing",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_walked_past_and_quarantined(log: RunLog, store: ObjectStore, how: str) -> None:
    writer = log.claim(ME)
    good = save(writer, 10)
    bad = save(writer, 20, good)
    damage(store, bad.objects[1], how)
    found = reopened(log).latest_good()
    assert found.entry == good
    (damaged,) = found.damaged
    assert damaged.entry == bad
    (problem,) = damaged.problems
    assert bad.objects[1].key in problem
    assert DAMAGE[how] in problem
    with pytest.raises(CorruptObject, match=bad.objects[1].key):
        read_verified(store, bad.objects[1])
    assert read_verified(store, bad.objects[0]) == store.get(bad.objects[0].key)

    entry = writer.quarantine(bad, problem)
    assert isinstance(entry, Quarantine)
    assert entry.target == bad.seq
    assert reopened(log).checkpoints() == [good]
    again = save(writer, 20, good)  # a quarantined step may be committed again
    assert reopened(log).latest_good().entry == again


def test_all_checkpoints_damaged_means_a_fresh_start(log: RunLog, store: ObjectStore) -> None:
    writer = log.claim(ME)
    entries = [save(writer, step) for step in (1, 2, 3)]
    for entry in entries:
        damage(store, entry.objects[0], "missing")
    found = log.latest_good()
    assert found.entry is None
    assert [one.entry for one in found.damaged] == entries[::-1]


def test_ranks_that_verify_their_shares_see_every_object_once(log: RunLog, store: ObjectStore) -> None:
    writer = log.claim(ME)
    folder = writer.new_checkpoint(1)
    refs = [writer.write(folder, f"part{index}", bytes([index]) * 100) for index in range(7)]
    entry = writer.commit(1, None, refs, {})
    for ref in refs:
        damage(store, ref, "missing")
    for ranks in (1, 2, 3, 9):
        problems = [problem for rank in range(ranks) for problem in log.verify(entry, (rank, ranks))]
        assert sorted(problems) == sorted(f"{ref.key} is missing" for ref in refs)


def test_a_missing_entry_is_named(log: RunLog, store: ObjectStore) -> None:
    writer = log.claim(ME)
    for step in range(3):
        save(writer, step)
    store.delete(["team.job/log/000000000002.json"])
    with pytest.raises(StorageError, match=r"team\.job/log/000000000002\.json is missing though later .* restore it"):
        reopened(log).checkpoints()


def test_a_missing_entry_is_named_even_where_nothing_needs_it(log: RunLog, store: ObjectStore) -> None:
    writer = log.claim(ME)
    for step in range(3):
        writer.retire(save(writer, step), keep_last=1)
    store.delete(["team.job/log/000000000002.json"])
    with pytest.raises(StorageError, match=r"team\.job/log/000000000002\.json is missing"):
        reopened(log).checkpoints()


def test_a_damaged_entry_is_named(log: RunLog, store: ObjectStore) -> None:
    save(log.claim(ME), 1)
    key = "team.job/log/000000000002.json"
    store.put(key, store.get(key).replace(b'"step":1', b'"step":2'))
    with pytest.raises(StorageError, match=rf"{key} is no valid log entry \(it is cut off or damaged"):
        reopened(log).checkpoints()


def test_an_entry_under_another_number_is_named(log: RunLog, store: ObjectStore) -> None:
    log.claim(ME)
    store.create("team.job/log/000000000002.json", store.get("team.job/log/000000000001.json"))
    with pytest.raises(StorageError, match="says it is entry 1: it was copied or renamed"):
        reopened(log).entries()
