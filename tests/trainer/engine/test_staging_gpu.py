"""Copies from a GPU beside training: pinned, on a stream of their own, of the state as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune_trainer.engine.fragments import KINDS
from finetune_trainer.engine.share import Piece, Share, TensorObject
from finetune_trainer.engine.snapshot import RankSlices
from finetune_trainer.engine.staging import Arena, in_turns, stage

pytestmark = pytest.mark.gpu

NUMEL = 4 * 2**20


def share_of(tensors: dict[str, torch.Tensor]) -> Share:
    device = next(iter(tensors.values())).device
    return Share(
        objects=(TensorObject("state-00000-00000.safetensors", (Piece("w", (NUMEL,), 0, tensors),)),),
        small={},
        slices=RankSlices({}, "rng", "blocks"),
        zero_stage=0,
        optimizer_steps=1,
        device=device,
        ready=torch.cuda.current_stream(device).record_event(),
    )


@pytest.mark.parametrize("kept", ["in a file in memory", "on a disk, which cannot be pinned", "in the process"])
def test_a_copy_waits_for_what_made_the_state_and_is_whole_when_it_returns(kept: str, tmp_path: Path) -> None:
    folders = {"in a file in memory": Path("/dev/shm") / tmp_path.name, "on a disk, which cannot be pinned": tmp_path}
    arena = Arena(folders[kept] / "arena" if kept in folders else None)
    try:
        tensors = {kind: torch.zeros(NUMEL, device="cuda") for kind in KINDS}
        for number in range(50):  # work that is still on its way when the state is captured
            for tensor in tensors.values():
                tensor.add_(number)
        share = share_of(tensors)
        assert arena.reserve(share, ranks_here=1)
        (view,) = stage(share, arena)
        found = torch.frombuffer(view, dtype=torch.float32, offset=len(share.objects[0].header))
        assert torch.equal(found, torch.full_like(found, sum(range(50))))
        assert bytes(next(iter(in_turns(share)))) == bytes(view)
    finally:
        arena.release()
