"""Small exchanges between ranks, always over gloo so that none of them waits for a GPU stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from finetune_trainer.errors import FinetuneError

T = TypeVar("T")


@dataclass(frozen=True)
class ControlGroup:
    """A process group for counters, flags and JSON; the default process group must be initialised."""

    group: dist.ProcessGroup
    rank: int
    world_size: int

    @classmethod
    def create(cls, timeout_seconds: float) -> ControlGroup:
        """Join a new gloo group of all ranks; collective. A rank that waits longer than the timeout raises."""
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        assert isinstance(group, dist.ProcessGroup)  # a rank that is no member gets an int instead
        return cls(group, dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over the ranks, in float64; the same result on every rank."""
        tensor = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(tensor, group=self.group)
        return [float(value) for value in tensor.tolist()]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank; the value must pickle (it never leaves the process group)."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in rank order, on every rank."""
        boxes: list[Any] = [None] * self.world_size
        dist.all_gather_object(boxes, value, group=self.group)
        return boxes

    def barrier(self) -> None:
        """Wait until every rank is here."""
        dist.barrier(group=self.group)

    def agree(self, work: Callable[[], T]) -> list[T]:
        """Run `work` on every rank; the results of all ranks, or, when any rank fails, an error on every rank.

        Without it, a rank that cannot write leaves the others waiting in the next collective. The failing rank raises
        its own error, the others `PeerFailed` with that rank's message.
        """
        try:
            mine: tuple[T | None, FinetuneError | None] = (work(), None)
        except FinetuneError as error:
            mine = (None, error)
        outcomes = self.gather((mine[0], str(mine[1]) if mine[1] else None))
        if mine[1] is not None:
            raise mine[1]
        for rank, (_, message) in enumerate(outcomes):
            if message is not None:
                raise PeerFailed(f"rank {rank} failed: {message}")
        return [value for value, _ in outcomes]


class PeerFailed(FinetuneError):
    """Another rank failed and this one stopped with it; that rank's error is the cause."""

    reason = "PeerFailed"
