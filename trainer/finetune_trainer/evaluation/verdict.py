"""Whether training was worth it: paired by record, with an interval; pure numpy.

The model after training is compared with the better one of the model before it as it was and with examples in its
prompt; one that gives labels or numbers also with the best answer that is the same for every record. The interval is
that of the percentile bootstrap of the mean difference (Efron and Tibshirani, An introduction to the bootstrap, 1993,
chapter 13), over records, because a model's score on one record says much of another's there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Resamples of the bootstrap: its own error on a bound is about a hundredth of the interval's width."""

CONFIDENCE = 0.95

FEWEST = 10
"""Records below which nothing is said: percentile intervals of fewer are far too narrow."""

AT_ONCE = 1 << 22
"""Indices that are drawn at a time: 32 MB."""

LOSS = "loss"
"""Name of the comparison by loss, where less is better."""


@dataclass(frozen=True)
class LossKind:
    """What losses are: `unit` of one, or of a change of it, and `held_out`, the words for a gain in held-out loss."""

    unit: str
    held_out: str


NATS = LossKind("nats per token", "nats per token of held-out loss")
"""Of texts, and of objectives that train on them."""


def loss_of(objective: str) -> LossKind:
    """Of an objective with another loss than that."""
    return LossKind(f"{objective} loss", f"in held-out {objective} loss")


Scores = Mapping[str, float]
"""A number for each record, by its id."""


class Outcome(StrEnum):
    """`Improved`: better, and the interval excludes no difference. `NotImproved`: anything else."""

    IMPROVED = "Improved"
    NOT_IMPROVED = "NotImproved"


@dataclass(frozen=True)
class Interval:
    """A mean difference and where its true value lies with `CONFIDENCE`."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What came of a comparison.

    `metric`: the metric's name or `LOSS`. `tuned`, `base`, `prompted`, `constant`: means over the `records` compared;
    `prompted` is None where the model before training was not given examples, `constant` where there is no answer that
    could be the same for all. `against`: which of these is the best. `gain`: by how much the tuned model is better than
    that, positive for better, also where less is better. `text`: one sentence for people.
    """

    outcome: Outcome
    metric: str
    records: int
    shots: int
    tuned: float
    base: float
    prompted: float | None
    constant: float | None
    against: str
    gain: Interval
    text: str


def bootstrap(differences: Sequence[float] | NDArray[np.float64], seed: int = 0) -> Interval:
    """The mean of paired differences and its percentile bootstrap interval; of at least one."""
    values = np.asarray(differences, dtype=np.float64)
    generator = np.random.default_rng(seed)
    rows = max(1, AT_ONCE // len(values))
    means = np.concatenate(
        [
            values[generator.integers(0, len(values), (min(rows, RESAMPLES - done), len(values)))].mean(axis=1)
            for done in range(0, RESAMPLES, rows)
        ]
    )
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def verdict(
    metric: str,
    tuned: Scores,
    base: Scores,
    prompted: Scores | None = None,
    shots: int = 0,
    *,
    constant: Scores | None = None,
    loss: LossKind = NATS,
) -> Verdict | None:
    """Compare on the records that every model has a finite score of; None if there are fewer than `FEWEST` of these.

    The order of the records does not matter, and equal scores give equal verdicts. `shots`: examples in the prompt.
    `constant`: scores of one answer for all records. `loss`: what a loss is.
    """
    named = {"tuned": tuned, "base": base, "prompted": prompted, "constant": constant}
    shown = {name: scores for name, scores in named.items() if scores is not None}
    common = sorted(record for record in tuned if all(np.isfinite(one.get(record, np.nan)) for one in shown.values()))
    if len(common) < FEWEST:
        return None
    sign = -1.0 if metric == LOSS else 1.0
    values = {name: _column(scores, common) for name, scores in shown.items()}
    against = max((name for name in values if name != "tuned"), key=lambda name: sign * float(values[name].mean()))
    gain = bootstrap(sign * (values["tuned"] - values[against]))
    outcome = Outcome.IMPROVED if gain.low > 0 else Outcome.NOT_IMPROVED
    means = {name: float(column.mean()) for name, column in values.items()}
    unit = loss.held_out if metric == LOSS else f"points of {metric}"
    return Verdict(
        outcome=outcome,
        metric=metric,
        records=len(common),
        shots=shots,
        tuned=means["tuned"],
        base=means["base"],
        prompted=means.get("prompted"),
        constant=means.get("constant"),
        against=against,
        gain=gain,
        text=_sentence(outcome, unit, means, against, gain, shots) + f" ({_size(gain, len(common))}).",
    )


def _column(scores: Scores, records: Sequence[str]) -> NDArray[np.float64]:
    return np.array([scores[record] for record in records], dtype=np.float64)


def _sentence(outcome: Outcome, unit: str, means: Mapping[str, float], against: str, gain: Interval, shots: int) -> str:
    whom = {
        "base": "the model before it",
        "prompted": f"prompting with {shots} example{'s' * (shots != 1)}",
        "constant": "giving every record the same answer",
    }[against]
    both = f"{means['tuned']:.3f} against {means[against]:.3f}"
    if outcome is Outcome.IMPROVED:
        return f"Fine-tuning beat {whom} by {gain.difference:.3f} {unit}, {both}"
    worse = " and is worse" if gain.high < 0 else ""
    return f"Fine-tuning did not beat {whom}{worse}: {both} {unit.removeprefix('points of ')}"


def _size(gain: Interval, records: int) -> str:
    return (
        f"{100 * CONFIDENCE:.0f} % interval of the difference {gain.low:+.3f} to {gain.high:+.3f}, {records:,} records"
    )
