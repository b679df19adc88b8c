"""What a run says about its data: counts, and one sample with its mask, for people to look at."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.report import SetReport
from finetune_trainer.data.rows import IGNORED, Counters, Row

SAMPLE_TOKENS = 1024


class Audit(BaseModel):
    """`kept_share`: trained tokens / tokens. `sample`: the first document (at most 1024 tokens) as runs of text that
    are trained or not. `sources`: what was found where. `report`: of the first block, what `finetune data report`
    says of everything; None where tokens are read that were stored before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: list[dict[str, Any]]
    counters: Counters
    kept_share: float
    sample: list[tuple[str, bool]]
    report: SetReport | None


def kept_share(counters: Counters) -> float:
    """Share of the tokens that are trained, from 0 to 1."""
    return counters.kept_tokens / counters.tokens if counters.tokens else 0.0


def decoded_sample(row: Row, encoder: Encoder) -> list[tuple[str, bool]]:
    """The row's first document as runs of text, each with whether it is trained; the first token never is."""
    starts = np.flatnonzero(row.position_ids == 0)
    end = min(int(starts[1]) if len(starts) > 1 else len(row), SAMPLE_TOKENS)
    ids, trained = row.input_ids[:end], row.labels[:end] != IGNORED
    bounds = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), end]
    return [(encoder.decode(ids[start:stop].tolist()), bool(trained[start])) for start, stop in pairwise(bounds)]
