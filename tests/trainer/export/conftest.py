"""A process group of one rank, so that collective exports run inside the test's process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from finetune_trainer.engine.collectives import ControlGroup


@pytest.fixture
def control() -> Iterator[ControlGroup]:
    """The only rank of a gloo group that ends with the test."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield ControlGroup.create(60)
    dist.destroy_process_group()
