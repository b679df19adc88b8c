"""Which pages of a data set stay on a node's disk: a rule that its ranks and restarts compute alike. Pure.

A walk reads every page once in an epoch (or once for each unit of its source's weight), and all that is held at the
end of an epoch is used in the next. So no choice of pages finds more than the share that fits (Belady, IBM Systems
Journal 5(2), 1966), and any fixed share finds all of it: the same pages in every epoch, with nothing to agree on,
nothing to move and nothing to lose. Sources that are read more often than once an epoch come first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from finetune_trainer.data.bijection import derive_key, permute

MARGIN = 0.95
"""Share of the budget that is filled where not all fits: pages are of different sizes, and the chosen ones maybe of the
larger."""


@dataclass(frozen=True, slots=True)
class Used:
    """Something that is read by pages: its id, bytes, number of pages, and how often each is read in an epoch."""

    id: str
    size: int
    pages: int
    uses: float


@dataclass(frozen=True, slots=True)
class _Share:
    key: bytes
    pages: int
    kept: int


class Keeping:
    """The pages of `used` that stay on disk, of at most `budget` bytes together."""

    def __init__(self, used: Iterable[Used], budget: int) -> None:
        once = {one.id: one for one in sorted(used, key=lambda one: one.uses)}
        wanted = sorted(once.values(), key=lambda one: (-one.uses, one.id))
        left = float(budget if sum(one.size for one in wanted) <= budget else budget * MARGIN)
        self._shares: dict[str, _Share] = {}
        for one in wanted:
            share = min(1.0, left / one.size) if one.size else 1.0
            self._shares[one.id] = _Share(derive_key(one.id, "kept"), one.pages, int(share * one.pages))
            left -= share * one.size

    def __contains__(self, id: str) -> bool:
        return id in self._shares

    def keeps(self, id: str, page: int) -> bool:
        """Whether page number `page` stays."""
        share = self._shares[id]
        if share.kept in (0, share.pages):
            return share.kept > 0
        return int(permute(share.key, share.pages, np.array([page]))[0]) < share.kept

    def keeps_all(self, id: str) -> bool:
        """Whether every page stays."""
        return self._shares[id].kept == self._shares[id].pages

    @property
    def digest(self) -> str:
        """16 hex digits that name the choice."""
        facts = sorted((id, share.pages, share.kept) for id, share in self._shares.items())
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
