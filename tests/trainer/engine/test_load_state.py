"""The state of one engine in another: with blocks, in parts and in parallel, and from objects of older versions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_trainer.engine import blocks, share
from finetune_trainer.engine.blocks import RankBlocks, Span
from finetune_trainer.engine.fragments import fragments, optimizer_step_count
from finetune_trainer.engine.load import fill
from finetune_trainer.engine.share import capture
from finetune_trainer.engine.snapshot import EngineState, merge
from finetune_trainer.engine.staging import Arena, in_turns, stage
from finetune_trainer.store.checksums import crc64nvme


def engine(seed: int) -> Any:
    """What the state is taken of: torch's own AdamW after an update, as DeepSpeed's stage 0 in float32 has it."""
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.Linear(20, 7))
    optimizer = torch.optim.AdamW(module.parameters())
    for _ in range(seed):
        module(torch.randn(4, 30)).sum().backward()
        optimizer.step()
    return SimpleNamespace(module=module, optimizer=optimizer, zero_optimization_stage=lambda: 0)


def state_of(engine: Any) -> list[torch.Tensor]:
    return [tensor for one in fragments(engine, 0, 1) for tensor in one.tensors.values()]


class Held:
    """A checkpoint in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts = 0

    def whole(self, name: str) -> bytes:
        return self.objects[name]

    def part(self, name: str, span: Span) -> memoryview:
        self.parts += 1
        data = bytearray(self.objects[name][span.begin : span.end])
        assert crc64nvme(data) == span.crc64
        return memoryview(data)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, EngineState, Held]:
    """An engine and its state in several objects of many blocks."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "READ_BYTES", 256)
    monkeypatch.setattr(share, "SHARD_ELEMENTS", 300)
    found, held = engine(3), Held()
    one = capture(found, 0, 1)
    held.objects |= one.small
    measures = {}
    for each, view in zip(one.objects, in_turns(one), strict=True):
        held.objects[each.name] = bytes(view)
        measures[each.name], _ = each.measure(view)
    held.objects[one.slices.blocks] = RankBlocks(objects=measures).model_dump_json().encode()
    assert len(one.objects) > 2
    return found, merge([one.slices], one.zero_stage, one.optimizer_steps), held


@pytest.mark.parametrize("with_blocks", [True, False])
def test_another_engine_becomes_the_one_that_was_saved(with_blocks: bool, saved: tuple[Any, EngineState, Held]) -> None:
    before, state, held = saved
    now = engine(1)
    fill(now, state if with_blocks else state.model_copy(update={"blocks": ()}), 0, 1, held)
    assert optimizer_step_count(now) == 3
    assert all(torch.equal(new, old) for new, old in zip(state_of(now), state_of(before), strict=True))
    assert (held.parts > 0) is with_blocks


def test_another_model_is_told_by_parameter_and_shape(saved: tuple[Any, EngineState, Held]) -> None:
    _, state, held = saved
    other = engine(1)
    other.module[1] = torch.nn.Linear(20, 8)
    other.optimizer = torch.optim.AdamW(other.module.parameters())
    with pytest.raises(ValueError, match=r"another model: 1.weight \[8, 20\] has shape \[7, 20\] there"):
        fill(other, state, 0, 1, held)


def test_what_was_copied_is_the_state_of_then_whatever_comes_after(saved: tuple[Any, EngineState, Held]) -> None:
    found, _, held = saved
    one, arena = capture(found, 0, 1), Arena(None)
    assert arena.reserve(one, ranks_here=1)
    views = stage(one, arena)
    for tensor in state_of(found):
        tensor.zero_()
    assert [bytes(view) for view in views] == [held.objects[each.name] for each in one.objects]
