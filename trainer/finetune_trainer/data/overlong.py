"""What becomes of documents that are longer than a row; pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune_trainer.data.encode import Document
from finetune_trainer.data.examples import BadRecord
from finetune_trainer.data.rows import IGNORED, Counters
from finetune_trainer.spec.data import Overlong


@dataclass(frozen=True, slots=True)
class Fitted:
    """The pieces of one record that are trained, each of at most a row, and what was counted on the way.

    `targets`: what the record says besides.
    """

    pieces: tuple[Document, ...]
    counters: Counters | None = None
    targets: tuple[float, ...] = ()


def fit_length(document: Document, max_length: int, overlong: Overlong) -> Fitted:
    """A document's pieces of at most `max_length` tokens.

    `Truncate` keeps the beginning, `Split` cuts into pieces that keep their masks but for their first label, `Drop`
    keeps nothing. Pieces without a trained token are left out. Of a record of several documents all of them together
    count, and nothing is ever cut: one is no use without the other. Raises BadRecord where truncating or splitting
    leaves no trained token.
    """
    length = len(document.input_ids)
    if length <= max_length:
        return Fitted(document.parts(), targets=document.targets)
    if overlong is Overlong.DROP or document.lengths:
        return Fitted((), Counters(dropped=1, lost_tokens=length))
    step = max_length if overlong is Overlong.SPLIT else length
    pieces = [document.part(start, start + max_length) for start in range(0, length, step)]
    kept = tuple(piece for piece in pieces if np.any(piece.labels != IGNORED))
    if not kept:
        raise BadRecord(f"no trained token within spec.data.maxLength ({max_length} tokens) of its {length} tokens")
    lost = length - sum(len(piece.input_ids) for piece in kept)
    if overlong is Overlong.TRUNCATE:
        return Fitted(kept, Counters(truncated=1, lost_tokens=lost), document.targets)
    return Fitted(kept, Counters(split=1, empty_pieces=len(pieces) - len(kept), lost_tokens=lost), document.targets)
