"""What a cross-field rule is, and which of its findings stand when other fields are broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from finetune_trainer.errors import Problem
from finetune_trainer.spec.job import FineTuneJob

Check = Callable[[FineTuneJob], Iterator[Problem]]


@dataclass(frozen=True)
class Rule:
    """A check over several fields.

    `reads` are the paths it looks at: `[]` is the list element that a finding is about, `[*]` is any element.
    """

    reads: tuple[str, ...]
    check: Check


class RuleBook:
    """Rules in the order in which their findings are shown, those of the `earlier` books first."""

    def __init__(self, *earlier: RuleBook) -> None:
        self._rules: list[Rule] = [rule for book in earlier for rule in book._rules]

    def rule(self, *reads: str) -> Callable[[Check], Check]:
        """Adds the decorated check, which reads the fields at `reads`."""

        def add(check: Check) -> Check:
            self._rules.append(Rule(reads, check))
            return check

        return add

    def names(self) -> tuple[str, ...]:
        """The checks' names, in order."""
        return tuple(rule.check.__name__ for rule in self._rules)

    def problems(self, job: FineTuneJob, broken: Iterable[str] = ()) -> Iterator[Problem]:
        """All findings on `job`, except those that read something at or below one of the `broken` paths."""
        broken_paths = tuple(broken)
        for rule in self._rules:
            for problem in rule.check(job):
                reads = [_same_element(read, problem.path) for read in rule.reads]
                if not any(holds(path, read) for path in broken_paths for read in reads):
                    yield problem


def holds(outer: str, inner: str) -> bool:
    """Whether `inner` is `outer` or lies below it; `[]` and `[*]` in `inner` are any element."""
    above, below = _segments(outer), _segments(inner)
    return len(above) <= len(below) and all(
        mine == theirs or (theirs in ("[]", "[*]") and mine.startswith("["))
        for mine, theirs in zip(above, below, strict=False)
    )


def _segments(path: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]|[^.\[\]]+", path)


def _same_element(read: str, path: str) -> str:
    """`read` with its first `[]` set to the element that `path` is about, when it is about one of the same list."""
    prefix, bracket, rest = read.partition("[]")
    element = re.match(rf"{re.escape(prefix)}(\[\d+\])", path)
    return f"{prefix}{element[1]}{rest}" if bracket and element else read
