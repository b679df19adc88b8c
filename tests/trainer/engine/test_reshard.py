"""State saved at one world size and ZeRO stage is loaded at any other, bit for bit, again and again."""

from __future__ import annotations

import hashlib
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_trainer.engine.snapshot import EngineState
from ranks import run_ranks

RESHARD = "tests/trainer/engine/ranks_engine.py:reshard"
PARTITIONED = {"overrides": {"zero_optimization.stage3_param_persistence_threshold": 0}}
"""Tiny parameters are kept whole on every rank by default, real ones are not."""
CASES: dict[str, dict[str, Any]] = {
    "Full": {"method": "Full"},
    "LoRA": {"method": "LoRA"},
    "BF16": {"method": "Full", "training": {"precision": "BF16"}},
}
SHORT = (2, 3, 1)  # world sizes, one after the other
LONG = (1, 2, 4, 3, 1)
SHARD_ELEMENTS = 512  # dozens of objects for each rank, as large models have
Whole = dict[str, torch.Tensor]


def whole_state(folder: Path) -> tuple[Whole, int]:
    """Every tensor put together from its slices, by kind and parameter, and the number of updates."""
    state = EngineState.model_validate(json.loads((folder / "state.json").read_text()))
    objects = {path.name: load_file(path) for path in folder.glob("state-*.safetensors")}
    found: Whole = {}
    for name, held in state.tensors.items():
        for kind in ("master", "exp_avg", "exp_avg_sq"):
            pieces = sorted((start, objects[file][f"{kind}|{start}|{name}"]) for file, start, _ in held.slices)
            assert [start for start, _ in pieces] == [0, *torch.tensor([len(p) for _, p in pieces]).cumsum(0)[:-1]]
            found[f"{kind} of {name}"] = torch.cat([piece for _, piece in pieces]).view(held.shape)
    return found, state.optimizer_steps


def assert_same_bits(found: tuple[Whole, int], expected: tuple[Whole, int]) -> None:
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(found[0][name].view(torch.int32), tensor.view(torch.int32)), name


def case_of(name: str, zero_stage: int, model: Path) -> dict[str, Any]:
    rows = {"seed": zero_stage, "steps": 2, "rows": 5}  # of each stage its own, so that no two states are alike
    case = CASES[name] | {"model": str(model), "zero_stage": zero_stage, "rows": rows}
    return case | ({"deepspeed": PARTITIONED} if zero_stage == 3 else {})


def hash_of(state: tuple[Whole, int]) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state[0].values())).hexdigest()


def move(ranks: int, cases: list[dict[str, Any]], load: dict[str, Path], save: Path) -> list[dict[str, list[int]]]:
    save.mkdir()
    load_from = {name: str(folder) for name, folder in load.items()}
    payload = {"cases": cases, "load": load_from, "save": str(save), "shard_elements": SHARD_ELEMENTS}
    return run_ranks(ranks, RESHARD, payload, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "world_sizes"),
    [("BF16", SHORT), *(pytest.param(name, LONG, marks=pytest.mark.soak) for name in CASES)],
)
@pytest.mark.timeout(3600)
def test_state_goes_through_world_sizes_and_stages_without_a_bit_changed(
    name: str, world_sizes: tuple[int, ...], tiny_llama: Path, tmp_path: Path
) -> None:
    """Four states, one saved at each stage, are loaded at each stage under the next world size, and so on."""
    cases = [case_of(name, stage, tiny_llama) for stage in range(4)]
    move(world_sizes[0], cases, {}, tmp_path / "0")
    origins = [whole_state(tmp_path / "0" / str(stage)) for stage in range(4)]
    assert len({hash_of(origin) for origin in origins}) == 4
    load = {str(state): tmp_path / "0" / str(state) for state in range(4)}
    for number, ranks in enumerate(world_sizes[1:], start=1):
        moved = move(ranks, cases, load, tmp_path / str(number))
        for state, stage in product(range(4), range(4)):
            assert_same_bits(whole_state(tmp_path / str(number) / f"{state}-{stage}"), origins[state])
        load = {str(state): tmp_path / str(number) / f"{state}-{(state + number) % 4}" for state in range(4)}
        if ranks == 1:  # needs everything, and reads nothing twice
            assert all(read == needed for read, needed in moved[0].values())
