"""The random-number generators of a rank, as tensors that a checkpoint holds."""

from __future__ import annotations

import torch


def random_state() -> dict[str, torch.Tensor]:
    """This rank's generators as uint8 tensors: the CPU's, and the current CUDA device's where there is one."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
