"""Functions that test_launcher.py runs on several ranks."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist


def all_reduce(payload: dict[str, Any]) -> dict[str, Any]:
    """The sum over all ranks of `payload["value"] + rank`."""
    dist.init_process_group("gloo")
    value = torch.tensor([float(payload["value"] + dist.get_rank())])
    dist.all_reduce(value)
    return {"rank": dist.get_rank(), "sum": value.item(), "accelerator": os.environ["DS_ACCELERATOR"]}


def fail_on_rank_one(payload: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 raises while all others wait for it in a barrier."""
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        raise ValueError(payload["message"])
    dist.barrier()
    return {}
