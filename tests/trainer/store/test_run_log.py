"""A run's log: who may write, what exists, and how a damaged checkpoint is walked past."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from finetune_trainer.errors import SpecError, StorageError
from finetune_trainer.store import (
    Checkpoint,
    Claim,
    Fenced,
    Identity,
    ObjectRef,
    ObjectStore,
    RunLog,
    Writer,
)
from small_run import ME, reopened, save


def test_a_commit_is_found_by_others_with_everything_it_says(log: RunLog) -> None:
    writer = log.claim(ME, info={"host": "a"})
    first = save(writer, 10, loss=2.5)
    second = save(writer, 20, first)
    claim, *found = reopened(log).entries()
    assert isinstance(claim, Claim)
    assert (claim.seq, claim.identity, claim.info) == (1, ME, {"host": "a"})
    assert claim.time == datetime.fromtimestamp(1_800_000_000.25, UTC)
    assert found == [first, second]
    assert [(entry.seq, entry.parent, entry.step, entry.attempt) for entry in (first, second)] == [
        (2, None, 10, 1),
        (3, 2, 20, 1),
    ]
    assert first.identity == ME.hash
    assert first.metric("evalLoss") == 2.5
    assert second.metric("evalLoss") is None
    assert reopened(log).checkpoints() == [first, second]


def test_an_empty_log_has_no_checkpoint(log: RunLog) -> None:
    assert log.entries() == []
    assert log.checkpoints() == []
    assert log.latest_good().entry is None


def test_keys_lie_as_the_layout_says(log: RunLog) -> None:
    entry = save(log.claim(ME, attempt=3), 70)
    for ref in entry.objects:
        run, data, folder, *_ = ref.key.split("/")
        step, attempt, nonce = folder.split("-")
        assert (run, data, step, attempt) == ("team.job", "data", "70", "3")
        assert nonce.startswith(entry.writer)
        assert len(nonce) == 24
    logs = [info.key for info in log.journal.store.list("team.job/log/")]
    assert logs == ["team.job/log/000000000001.json", "team.job/log/000000000002.json"]


def test_no_two_checkpoints_share_a_folder(log: RunLog) -> None:
    writer = log.claim(ME)
    assert len({writer.new_checkpoint(1) for _ in range(100)}) == 100


def test_attempts_without_a_number_count_up(log: RunLog) -> None:
    assert [log.claim(ME).attempt for _ in range(3)] == [1, 2, 3]
    assert log.claim(ME, attempt=7).attempt == 7
    assert reopened(log).claim(ME).attempt == 8


def test_an_older_attempt_cannot_claim(log: RunLog) -> None:
    log.claim(ME, attempt=2)
    with pytest.raises(Fenced, match="belongs to attempt 2: attempt 1 is older") as caught:
        reopened(log).claim(ME, attempt=1)
    assert not caught.value.retryable
    assert len(log.entries()) == 1


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_superseded_writer_can_write_no_entry(log: RunLog, attempt: int) -> None:
    old = reopened(log).claim(ME, attempt=1)
    kept = save(old, 10)
    new = log.claim(ME, attempt=attempt)  # the same attempt: a restarted worker group
    for write in (
        lambda: save(old, 20, kept),
        lambda: old.quarantine(kept, "reason"),
        lambda: old.pin(kept),
        lambda: old.retire(kept, keep_last=1),
        old.orphans,
        old.sweep,
    ):
        with pytest.raises(Fenced, match=rf"claimed by attempt {attempt} \(writer {new.id}\)"):
            write()
    assert [entry.kind for entry in log.entries()] == ["claim", "checkpoint", "claim"]
    assert save(new, 20, kept).seq == 4


def test_a_writer_that_was_rebuilt_from_its_ids_may_commit(log: RunLog) -> None:
    claimed = log.claim(ME)
    same = reopened(log).writer(claimed.attempt, claimed.id)
    assert save(same, 1).writer == claimed.id
    other = reopened(log).writer(claimed.attempt, "f" * 16)
    with pytest.raises(Fenced):
        save(other, 2)


def test_a_writer_can_be_sent_to_another_process(log: RunLog) -> None:
    writer: Writer = pickle.loads(pickle.dumps(reopened(log).claim(ME)))
    assert save(writer, 1).seq == 2


def test_another_identity_is_refused_field_by_field(log: RunLog) -> None:
    log.claim(ME)
    other = Identity(
        hash="1" * 64, fields={"spec.training.seed": 1, "spec.method.type": "Full", "spec.data.packing": "None"}
    )
    with pytest.raises(SpecError) as caught:
        reopened(log).claim(other)
    first, second = caught.value.problems
    assert (first.path, first.value) == ("spec.data.packing", "None")
    assert "was started with 'absent'" in first.message
    assert (second.path, second.value) == ("spec.training.seed", 1)
    assert f"the run in {log.uri} was started with 0: write that again, or choose another" in second.message
    assert len(log.entries()) == 1


def test_another_hash_of_the_same_fields_is_refused_too(log: RunLog) -> None:
    log.claim(ME)
    with pytest.raises(SpecError, match="another trainer version"):
        log.claim(Identity(hash="1" * 64, fields=ME.fields))


def test_racing_claims_all_get_their_own_entry_and_one_writer_is_left(log: RunLog) -> None:
    barrier = threading.Barrier(8)

    def claim(_: int) -> Writer:
        mine = reopened(log)
        barrier.wait()
        return mine.claim(ME)

    with ThreadPoolExecutor(8) as pool:
        writers = list(pool.map(claim, range(8)))
    entries = log.entries()
    assert [entry.seq for entry in entries] == list(range(1, 9))
    assert sorted(writer.attempt for writer in writers) == list(range(1, 9))
    last = max(writers, key=lambda writer: writer.attempt)
    for writer in writers:
        if writer is last:
            save(writer, 1)
        else:
            with pytest.raises(Fenced):
                save(writer, 1)


def test_two_writers_that_race_never_both_write_one_entry(log: RunLog) -> None:
    """Two processes take the run from each other again and again while both commit."""
    barrier = threading.Barrier(2)

    def fight(_: int) -> list[int]:
        mine, committed = reopened(log), []
        barrier.wait()
        writer = mine.claim(ME, attempt=1)
        for step in range(12):
            try:
                committed.append(save(writer, step).seq)
            except Fenced:
                writer = mine.claim(ME, attempt=1)
        return committed

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(fight, range(2))
    entries = reopened(log).entries()  # raises if an entry is by a writer that did not hold the claim
    assert not set(one) & set(other)
    assert sorted(one + other) == [entry.seq for entry in entries if isinstance(entry, Checkpoint)]
    holder = ""
    for entry in entries:
        holder = entry.writer if isinstance(entry, Claim) else holder
        assert entry.writer == holder


def test_threads_of_one_writer_may_commit_at_once(log: RunLog) -> None:
    writer = log.claim(ME)
    with ThreadPoolExecutor(4) as pool:
        entries = list(pool.map(lambda step: save(writer, step), range(12)))
    assert sorted(entry.seq for entry in entries) == list(range(2, 14))
    assert {entry.step for entry in reopened(log).checkpoints()} == set(range(12))


def test_a_commit_of_objects_outside_the_run_is_refused(log: RunLog) -> None:
    writer = log.claim(ME)
    ref = writer.write(writer.new_checkpoint(1), "a", b"x")
    outside = ObjectRef("another.job/data/1-1-x/a", 1, "0" * 16)
    for refs in ([ref, outside], [ref, ref]):
        with pytest.raises(ValueError, match="once"):
            writer.commit(1, None, refs, {})
    with pytest.raises(ValueError, match=r"[Jj]SON"):
        writer.commit(1, None, [ref], {"loss": float("nan")})
    assert [entry.kind for entry in log.entries()] == ["claim"]


def test_other_files_beside_the_log_do_no_harm(log: RunLog, store: ObjectStore) -> None:
    writer = log.claim(ME)
    for key in ("log/README.txt", "log/000000000009.json.bak", "log/old/000000000009.json", "metrics.jsonl"):
        store.put(f"team.job/{key}", b"x")
    save(writer, 1)
    assert [entry.seq for entry in reopened(log).entries()] == [1, 2]


def test_runs_in_one_place_do_not_meet(store: ObjectStore) -> None:
    one, other = RunLog(store, "team.job"), RunLog(store, "team.job2")
    save(one.claim(ME), 1)
    assert other.entries() == []
    save(other.claim(Identity(hash="x")), 2)
    assert [entry.step for entry in one.checkpoints()] == [1]


def test_a_run_id_with_a_slash_is_refused(store: ObjectStore) -> None:
    with pytest.raises(StorageError, match="slash"):
        RunLog(store, "team/job")
