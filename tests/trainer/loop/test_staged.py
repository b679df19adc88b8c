"""Which of the states that were left in memory is taken up."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.engine.snapshot import RankSlices
from finetune_trainer.leftovers import shares_of
from finetune_trainer.model.fingerprint import ModelIdentity
from finetune_trainer.staged import Draft, Staged, newest_whole
from finetune_trainer.state import Progress


def note(folder: str, rank: int, world_size: int = 2, step: int = 8, parent: int | None = 3) -> Staged:
    common: dict[str, Any] = {"zero_stage": 2, "optimizer_steps": step, "progress": Progress(step=step), "metrics": {}}
    model = ModelIdentity(weights="w", tokenizer="t")
    draft = Draft(origin="0" * 16, step=step, parent=parent, model=model, dataset="d", **common)
    parts: dict[str, Any] = {"objects": (), "small": {}, "slices": RankSlices({}, f"rng-{rank}", f"blocks-{rank}")}
    return Staged(folder=folder, rank=rank, world_size=world_size, draft=draft if rank == 0 else None, **parts)


@pytest.mark.parametrize(
    ("notes", "parent", "taken"),
    [
        ([note("a", 0), note("a", 1)], 3, "a"),
        ([note("a", 0)], 3, None),  # the other rank's share is lost
        ([note("a", 1)], 3, None),
        ([note("a", 0), note("b", 1)], 3, None),  # of two saves
        ([note("a", 0), note("a", 1)], 4, None),  # committed, or no longer this line of the run
        ([note("a", 0, parent=None), note("a", 1)], None, "a"),
        ([note("a", 0), note("a", 1), note("b", 0, step=12), note("b", 1)], 3, "b"),
        ([note("a", 0), note("a", 1), note("b", 0, step=12)], 3, "a"),
        ([note("a", 0, world_size=1)], 3, "a"),
        ([], None, None),
    ],
)
def test_the_newest_whole_state_of_the_run_s_own_line_is_taken(
    notes: list[Staged], parent: int | None, taken: str | None
) -> None:
    assert newest_whole(notes, parent) == taken


def test_a_share_that_two_nodes_see_is_stored_once() -> None:
    listed = [[note("a", 0), note("a", 1)], [], [note("a", 0), note("a", 1), note("b", 0)]]
    assert [shares_of(listed, "a", rank) for rank in range(3)] == [{0, 1}, set(), set()]
    assert shares_of(listed, "b", 2) == {0}
