"""What a run says about its data: counts, and one sample with its mask, for people to look at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.report import SetReport
from finetune_trainer.data.rows import Counters, Row, documents_of

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


class TemplateCheck(BaseModel):
    """What the chat template, or the end of a text, came to in some rows.

    `texts`: documents; `doubled`: those that begin with two start tokens. `turns`: runs of trained tokens that were not
    cut off; `ended`: those whose last token is one that generation stops at, so that the model learns to stop.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    texts: int
    doubled: int
    turns: int
    ended: int


def check_template(rows: Sequence[Row], start: int | None, ends: Collection[int], max_length: int) -> TemplateCheck:
    """Look at every document of the rows. `start`: the tokenizer's start token; `ends`: those that end what is said."""
    texts = doubled = turns = ended = 0
    for document in (document for row in rows for document in documents_of(row)):
        ids = document.tokens
        texts += 1
        doubled += len(ids) > 1 and start is not None and ids[0] == ids[1] == start
        last = [place for place in _last_of_runs(document.trained) if place < max_length - 1]
        turns += len(last)
        ended += sum(int(ids[place]) in ends for place in last)
    return TemplateCheck(texts=texts, doubled=doubled, turns=turns, ended=ended)


def _last_of_runs(trained: NDArray[np.bool_]) -> list[int]:
    """The last position of each run of trained tokens."""
    after = np.append(trained[1:], False)
    found: list[int] = np.flatnonzero(trained & ~after).tolist()
    return found


def kept_share(counters: Counters) -> float:
    """Share of the tokens that are trained, from 0 to 1."""
    return counters.kept_tokens / counters.tokens if counters.tokens else 0.0


def decoded_sample(row: Row, encoder: Encoder) -> list[tuple[str, bool]]:
    """The row's first document as runs of text, each with whether it is trained; the first token never is."""
    end = min(row.lengths[0], SAMPLE_TOKENS)
    ids, trained = row.input_ids[:end], row.trained[:end]
    bounds = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), end]
    return [(encoder.decode(ids[start:stop].tolist()), bool(trained[start])) for start, stop in pairwise(bounds)]
