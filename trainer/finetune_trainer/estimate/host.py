"""Memory of a node's host: what is offloaded, the copies of checkpoints on their way to the store, the processes."""

from __future__ import annotations

from collections import defaultdict

from finetune_trainer.estimate.setup import Setup
from finetune_trainer.estimate.state import Counts, Item, Place, kept_gradients, resident

PROCESS = 2 * 2**30
"""Of each rank on a GPU: Python, torch, CUDA's libraries and the data stream; a generous round number."""

CPU_PROCESS = 2**30
"""The same without CUDA."""

COPY = "copy of a checkpoint"
FLOAT32 = 4
KINDS = 3  # master weights and Adam's two moments; docs/adr/0007


def checkpoint_size(counts: Counts) -> int:
    """Bytes of the tensors in one checkpoint: float32 weights and moments of what trains, whatever wrote it.

    Headers and checksums add less than 0.1 %, and about 16 KiB for each rank.
    """
    return FLOAT32 * KINDS * counts.trainable


def node_memory(counts: Counts, setup: Setup, device: int) -> dict[str, int]:
    """Bytes by name of all ranks of a node, with a checkpoint on its way; `device` is a rank's peak, where that is a
    CPU's.

    The copy of a checkpoint is left out by the run where it would take more than half of what is free
    (`engine.staging`); the run then waits for the store.
    """
    each: dict[str, float] = defaultdict(float)
    items: list[Item] = [*resident(counts, setup), *kept_gradients(counts, setup)]
    for item in items:
        if item.place is Place.HOST and setup.on_gpu:
            each[f"offloaded {item.name}"] += item.size
    each["processes"] = PROCESS if setup.on_gpu else CPU_PROCESS
    if not setup.on_gpu:
        each["training"] = device
    each[COPY] = checkpoint_size(counts) / setup.ranks
    return {name: int(size * setup.ranks_per_node) for name, size in each.items()}
