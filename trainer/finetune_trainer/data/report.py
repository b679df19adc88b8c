"""What the data report says: counts, lengths and duplicates of one set of records. Ids, never content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from finetune_trainer.data.duplicates import PERMUTATIONS, SHINGLE, THRESHOLD
from finetune_trainer.data.rows import Counters, RecordId
from finetune_trainer.data.settings import DataSettings

SHOWN = 5
"""Ids that are named per source, of bad records and of duplicates."""


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True
    )


class Bucket(_Part):
    """How many records have `first` to `last` tokens."""

    first: int
    last: int
    records: int


class Lengths(_Part):
    """Tokens per record before anything is cut: percentiles by nearest rank, and buckets that double in width."""

    p50: int = 0
    p90: int = 0
    p99: int = 0
    max: int = 0
    histogram: list[Bucket] = []


class BadExample(_Part):
    """A record that cannot be trained on, and why."""

    record: RecordId
    reason: str


class Match(_Part):
    """A record and an earlier one, in the order of sources and files, that it equals or, if `near`, resembles."""

    record: RecordId
    earlier: RecordId
    near: bool


class Measures(_Part):
    """What was counted, over one source or all of a set.

    `records`, `bytes` (as stored): in the files. `expected`: records of one pass, weights applied; `read`: those that
    this report is of, and all other numbers too. `documents`, `tokens`, `kept_tokens` (trained on): after cutting and
    dropping, as rows hold them, a substitute for a bad record counting for its own source. `truncated` to `bad`: as in
    `Counters`. `exact_duplicates`, `near_duplicates`: records that equal or resemble an earlier one of the set, each
    counted once; copies by weight are none.
    """

    records: int
    bytes: int
    expected: int
    read: int
    documents: int
    tokens: int
    kept_tokens: int
    kept_share: float
    truncated: int
    split: int
    dropped: int
    lost_tokens: int
    bad: int
    lengths: Lengths
    exact_duplicates: int
    near_duplicates: int


class SourceReport(_Part):
    """One source of the manifest; the first ids of bad records and of either kind of duplicate."""

    uri: str
    format: str
    weight: float
    counts: Measures
    bad_records: list[BadExample]
    duplicates: list[Match]


class Overlap(_Part):
    """Held-out records that equal or resemble a training record: contamination."""

    exact: int
    near: int
    examples: list[Match]


class Pass(_Part):
    """One whole pass over a set; exact where everything was read, else estimated from what was.

    `rows`: after packing. `steps`: optimizer steps, None for held-out data.
    """

    tokens: int
    kept_tokens: int
    rows: int
    steps: int | None = None


class SetReport(_Part):
    """A set of records: the training data, or a held-out set.

    `estimated`: not everything was read. `rows`: made of the records read; `fill`: share of their positions that hold
    a token if each has `maxLength` of them. `overlap`: with the training data, of held-out sets.
    """

    name: str
    estimated: bool
    sources: list[SourceReport]
    total: Measures
    rows: int
    fill: float
    whole: Pass
    overlap: Overlap | None = None


class Rules(_Part):
    """How the numbers were made: of the manifest, and of the search for near duplicates."""

    max_length: int
    overlong: str
    packing: str
    global_batch_size: int
    max_bad_ratio: float
    near_threshold: float = THRESHOLD
    shingle_tokens: int = SHINGLE
    permutations: int = PERMUTATIONS

    @classmethod
    def of(cls, settings: DataSettings) -> Rules:
        """Those of a manifest's settings."""
        return cls(
            max_length=settings.max_length,
            overlong=str(settings.overlong),
            packing=str(settings.packing),
            global_batch_size=settings.global_batch_size,
            max_bad_ratio=settings.max_bad_ratio,
        )


class DataReport(_Part):
    """The data of a job: the first epoch of its training data, and one pass over each held-out set."""

    rules: Rules
    train: SetReport
    eval: list[SetReport]


def summarise_lengths(lengths: NDArray[np.int32]) -> Lengths:
    """Percentiles and histogram of lengths in tokens, each at least 1; zeros for none."""
    if not len(lengths):
        return Lengths()
    p50, p90, p99 = (int(value) for value in np.percentile(lengths, [50, 90, 99], method="inverted_cdf"))
    powers = np.frexp(lengths)[1] - 1  # exact, unlike a logarithm
    counts = np.bincount(powers)
    buckets = [
        Bucket(first=1 << int(power), last=(2 << int(power)) - 1, records=int(counts[power]))
        for power in range(int(powers.min()), len(counts))
    ]
    return Lengths(p50=p50, p90=p90, p99=p99, max=int(lengths.max()), histogram=buckets)


def project(sources: Sequence[Measures], rows: int, global_batch_size: int | None) -> Pass:
    """A whole pass: every source's tokens in proportion to its records, rows in proportion to all tokens."""
    factors = [source.expected / source.read if source.read else 0.0 for source in sources]
    tokens = sum(source.tokens * factor for source, factor in zip(sources, factors, strict=True))
    kept = sum(source.kept_tokens * factor for source, factor in zip(sources, factors, strict=True))
    seen = sum(source.tokens for source in sources)
    whole_rows = round(rows * tokens / seen) if seen else 0
    steps = None if global_batch_size is None else -(-whole_rows // global_batch_size)
    return Pass(tokens=round(tokens), kept_tokens=round(kept), rows=whole_rows, steps=steps)


def counted(counters: Counters) -> dict[str, int]:
    """What a report takes over from the stream's own counts."""
    names = ("documents", "tokens", "kept_tokens", "truncated", "split", "dropped", "lost_tokens", "bad")
    return {name: getattr(counters, name) for name in names}
