"""Commit what the ranks of an earlier start had copied for a save and could not store any more."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from finetune_trainer.commit import publish
from finetune_trainer.run import Run
from finetune_trainer.shares import StoredShare, store_again
from finetune_trainer.staged import Draft, Staged, StagedShare, newest_whole

NAME = "committing what was left in memory"


def commit_left_in_memory(run: Run, found: Sequence[StagedShare]) -> None:
    """Commit the newest state that is whole in the nodes' memory and newer than the log's, if there is one; collective.

    `found` is what lies on this rank's node. Raises StorageError when it cannot be written.
    """
    listed = run.control.gather([share.note for share in found] if run.context.local_rank == 0 else [])
    folder = run.control.broadcast(_choose(run, list(chain.from_iterable(listed))) if run.control.is_main else None)
    if folder is None:
        return
    draft = next(note.draft for note in chain.from_iterable(listed) if note.folder == folder and note.draft is not None)
    run.report({"kind": "phase", "name": NAME, "detail": f"step {draft.step}, to {run.log.uri}"})
    mine = shares_of(listed, folder, run.control.rank)
    chosen = [share for share in found if share.note.folder == folder and share.note.rank in mine]
    shares = _store_again(run, chosen, draft)
    if shares is None:
        run.report({"kind": "phase", "name": NAME, "detail": f"step {draft.step} is damaged there and is left out"})
        return
    run.control.agree(lambda: publish(run, draft, shares) if run.control.is_main else None)


def shares_of(listed: Sequence[Sequence[Staged]], folder: str, rank: int) -> set[int]:
    """The ranks of the save `folder` whose shares `rank` stores: what it listed and no rank before it."""
    before = {note.rank for notes in listed[:rank] for note in notes if note.folder == folder}
    return {note.rank for note in listed[rank] if note.folder == folder} - before


def _choose(run: Run, notes: Sequence[Staged]) -> str | None:
    """Rank 0: the save to commit, of this run and not of one whose log was deleted."""
    if not notes:
        return None
    origin = run.log.journal.first().writer
    good = run.log.history().good
    own = [note for note in notes if note.draft is None or note.draft.origin == origin]
    return newest_whole(own, good[-1] if good else None)


def _store_again(run: Run, shares: Sequence[StagedShare], draft: Draft) -> list[StoredShare] | None:
    """Store all ranks' shares, in the order of the ranks that made them; None when one is not whole. Collective."""
    prefix = run.control.broadcast(run.writer.new_checkpoint(draft.step))
    stored = run.control.agree(lambda: [(share.note.rank, store_again(run.writer, prefix, share)) for share in shares])
    by_rank = dict(chain.from_iterable(stored))
    ordered = [by_rank[rank] for rank in sorted(by_rank)]
    whole = [one for one in ordered if one is not None]
    return whole if len(whole) == len(ordered) else None
