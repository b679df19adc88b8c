"""Contestants measured in the same run, in alternating order, and what their rates say about each other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.turns import Contestant, Turn


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Race:
    """The turns of every contestant by name, one per round."""

    turns: Mapping[str, Sequence[Turn]]

    def rate(self, name: str) -> Spread:
        """Non-padding tokens per second."""
        return Spread.of([turn.rate for turn in self.turns[name]])

    def ratio(self, ours: str, theirs: str) -> Spread:
        """How many tokens `ours` trains in the time in which `theirs` trains one, round by round."""
        rounds = zip(self.turns[ours], self.turns[theirs], strict=True)
        return Spread.of([one.rate / other.rate for one, other in rounds])

    def cpu_ratio(self, ours: str, theirs: str) -> Spread:
        """The same in processor time of rank 0, for a machine that is not quiet."""
        rounds = zip(self.turns[ours], self.turns[theirs], strict=True)
        return Spread.of([one.tokens / one.cpu / (other.tokens / other.cpu) for one, other in rounds])

    def check_same_tokens(self) -> None:
        """AssertionError unless every contestant trained the same number of tokens in every round."""
        rounds = zip(*self.turns.values(), strict=True)
        for number, turns in enumerate(rounds):
            tokens = {name: turn.tokens for name, turn in zip(self.turns, turns, strict=True)}
            assert len(set(tokens.values())) == 1, f"round {number}: not the same batches: {tokens}"

    def fastest(self, names: Sequence[str]) -> str:
        """Which of them has the highest median rate."""
        return max(names, key=lambda name: self.rate(name).median)


def race(contestants: Sequence[Contestant], *, steps: int, rounds: int) -> Race:
    """Let every contestant train `steps` steps per round; every other round goes through them backwards."""
    turns: dict[str, list[Turn]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants if number % 2 == 0 else reversed(contestants):
            turns[contestant.name].append(contestant.train(steps))
    return Race(turns)
