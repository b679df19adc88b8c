"""The labels of a classifier: those that the manifest declares or the training data has, and what each record is given.

Labels in records are names or ids. A number that is written like a name is that name; any other one is an id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

from finetune_trainer.data.examples import BadRecord, Judged, Labelled
from finetune_trainer.errors import DataError
from finetune_trainer.spec.heads import MAX_LABELS, Classification, ProblemType

FIELD = "spec.objective.classification"
SHOWN = 8
"""Labels that a message names."""
SHOWN_CHARACTERS = 32
"""Of a label that is not known, which may be anything."""

Value = str | int


@dataclass(frozen=True)
class LabelSet:
    """What a text can be given. `names`: of the labels, by id; none with Regression.

    `counts`: how often each is seen in an epoch of the training data. `weights`: how much each counts in the loss.
    """

    problem: ProblemType
    names: tuple[str, ...] = ()
    counts: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers are a text's target."""
        return len(self.names) if self.problem is ProblemType.MULTI_LABEL else 1

    def judge(self, example: Labelled) -> Judged:
        """The example with numbers for its label: the id, 1 for each label that it has and 0 for others, or its number.

        Raises BadRecord for a label that is unknown or not what the problem asks for.
        """
        return Judged(example.text, self._targets(example.given))

    def _targets(self, given: object) -> tuple[float, ...]:
        if self.problem is ProblemType.REGRESSION:
            return (_number(given),)
        if self.problem is ProblemType.MULTI_LABEL:
            return self._several(given)
        if isinstance(given, list):
            raise BadRecord(f"a list of labels, and {FIELD}.problem is SingleLabel")
        return (float(self.id_of(value_of(given))),)

    def _several(self, given: object) -> tuple[float, ...]:
        if not isinstance(given, list):
            raise BadRecord(f"no list of labels, and {FIELD}.problem is MultiLabel")
        found = [self.id_of(value_of(one)) for one in given]
        if len(set(found)) < len(found):
            raise BadRecord("the same label twice: the list has the names or ids of the labels that apply")
        return tuple(float(number in found) for number in range(len(self.names)))

    def id_of(self, value: Value) -> int:
        """The number of a label; raises BadRecord for an unknown one."""
        known = self._ids.get(str(value), value)
        if isinstance(known, int) and 0 <= known < len(self.names):
            return known
        raise BadRecord(
            f"the unknown label {str(value)[:SHOWN_CHARACTERS]!r}: write one of {some(self.names)}, or name it in "
            f"{FIELD}.labels"
        )

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.names)}


def value_of(given: object) -> Value:
    """A label as a record writes it; `true` and `false` are names. Raises BadRecord for what can be no label."""
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, float) and given.is_integer():  # a column of integers that may be missing, in Parquet
        return int(given)
    if isinstance(given, int) or (isinstance(given, str) and given):
        return given
    raise BadRecord(f"a label that is {'an empty string' if given == '' else f'a {type(given).__name__}'}")


def label_set(options: Classification, counted: Mapping[Value, float]) -> LabelSet:
    """The labels of `options`, or else those that were `counted` in the training data.

    Raises DataError for labels that have no record, for too many of them, and for nothing to choose from.
    """
    if options.problem is ProblemType.REGRESSION:
        return LabelSet(options.problem)
    names = options.labels or _sorted({str(value) for value in counted})
    if not options.labels:
        _check_found(options, names)
    found = LabelSet(options.problem, names)
    counts = [0.0] * len(names)
    for value, count in counted.items():
        try:
            counts[found.id_of(value)] += count
        except BadRecord:  # refused record by record, within the budget of bad ones
            continue
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    if missing:
        raise DataError(
            f"{FIELD}.labels: no training record has the label {some(missing)}: a classifier cannot learn it; add "
            "records to spec.data.train, or remove it"
        )
    unknown = [label for label in options.class_weights if label not in names]
    if unknown:
        raise DataError(f"{FIELD}.classWeights: {some(unknown)} is no label of the training data, {some(names)} are")
    return LabelSet(options.problem, names, tuple(counts), class_weights(options, names, counts))


def class_weights(options: Classification, names: Sequence[str], counts: Sequence[float]) -> tuple[float, ...]:
    """The weight of each label, by id; balanced, N / (C n) for a label that n of N texts have, of C labels.

    (That is scikit-learn's `balanced`, after King and Zeng, Logistic Regression in Rare Events Data, 2001.)
    """
    if not options.balance_classes:
        return tuple(options.class_weights.get(name, 1.0) for name in names)
    return tuple(sum(counts) / (len(names) * count) for count in counts)


def other_labels(then: Sequence[str], now: Sequence[str]) -> str:
    """In what the labels `now` differ from `then`, whose places scores were trained for; "" where in nothing."""
    if tuple(then) == tuple(now):
        return ""
    new, gone = [name for name in now if name not in then], [name for name in then if name not in now]
    parts = ([f"new: {some(new)}"] if new else []) + ([f"gone: {some(gone)}"] if gone else [])
    return f"{some(now)} ({len(now)} in all; {'; '.join(parts) or 'the same in another order'})"


def _check_found(options: Classification, names: Sequence[str]) -> None:
    if len(names) > MAX_LABELS:
        raise DataError(
            f"{FIELD}.labels: the training data has {len(names)} different labels, more than {MAX_LABELS}, such as "
            f"{some(names)}: name the column of the labels in spec.data.train[].columns, or write problem: Regression "
            "if they are numbers to predict"
        )
    if len(names) < (2 if options.problem is ProblemType.SINGLE_LABEL else 1):
        what = f"the label {names[0]!r} only" if names else "no label"
        raise DataError(f"{FIELD}.labels: the training data has {what}: add records with other labels")


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    """Numbers by their value, anything else as text."""
    found = sorted(names)
    digits = all(name.removeprefix("-").isdecimal() for name in found)
    return tuple(sorted(found, key=int) if digits else found)


def _number(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not isfinite(given):
        raise BadRecord(f"a label that is no finite number, and {FIELD}.problem is Regression")
    return float(given)


def some(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:SHOWN_CHARACTERS] for name in names[:SHOWN]) + more
