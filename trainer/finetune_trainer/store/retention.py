"""Which checkpoints to give up: a pure decision over the live ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A live checkpoint as retention sees it; `score` is its held-out loss, lower is better, None if not evaluated."""

    seq: int
    score: float | None = None
    pinned: bool = False
    quarantined: bool = False


def to_retire(candidates: Sequence[Candidate], *, verified: int, keep_last: int, keep_best: int) -> tuple[int, ...]:
    """The seqs to give up, oldest first.

    `verified` is the seq of the newest checkpoint that is known to be good: it and everything above it stays. Below it
    stay pinned ones, and of the good ones the `keep_last` newest and the `keep_best` best (at equal score the newer).
    Nothing is given up if `verified` itself is not a live good checkpoint.
    """
    good = sorted((one for one in candidates if not one.quarantined), key=lambda one: one.seq, reverse=True)
    if verified not in {one.seq for one in good}:
        return ()
    scored = sorted((one.score, -one.seq) for one in good if one.score is not None)
    kept = {one.seq for one in good[:keep_last]} | {-negative for _, negative in scored[:keep_best]}
    kept |= {one.seq for one in candidates if one.pinned or one.seq >= verified}
    return tuple(sorted({one.seq for one in candidates} - kept))
