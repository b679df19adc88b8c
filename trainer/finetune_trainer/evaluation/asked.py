"""What both models are asked: drawn once per start, on one rank, the same whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from finetune_trainer.data import IGNORED, RecordId
from finetune_trainer.dataset import Dataset
from finetune_trainer.errors import DataError
from finetune_trainer.evaluation.metrics import make_metric
from finetune_trainer.evaluation.questions import Question, Questions
from finetune_trainer.spec import EvalSource, JobSpec
from finetune_trainer.spec import Metric as MetricSpec

SHOWN = 4
"""Records of a set whose answers before and after training are kept for people to look at."""

FEWEST_NEW, MOST_NEW = 32, 512
"""Bounds of the longest generated answer in tokens, where the manifest leaves it to us."""


@dataclass(frozen=True)
class AskedSet:
    """A held-out set's records, and the same behind examples from the training data.

    `prompted` is in the order of `questions`; `shots`: the most examples that stand before one of them, 0: there are
    none. `generated`: records that are answered with a text, `shown`: those of them whose answers are kept.
    """

    name: str
    metrics: tuple[MetricSpec, ...]
    questions: tuple[Question, ...]
    prompted: tuple[Question, ...]
    shots: int
    generated: frozenset[RecordId]
    shown: frozenset[RecordId]


@dataclass(frozen=True)
class Asked:
    """All sets, and the longest answer that is generated, in tokens."""

    sets: tuple[AskedSet, ...]
    max_new_tokens: int


def draw(spec: JobSpec, dataset: Dataset, tokenizer: PreTrainedTokenizerFast, positions: int) -> Asked:
    """Draw the records of every held-out set that training is about, and examples for the model before training.

    `positions`: tokens that a prompt and its answer may have together. DataError names a metric, a record and why that
    metric cannot be computed of it, where more records are so than `badRecords.maxRatio` allows.
    """
    wanted = spec.evaluation
    train = Questions(tokenizer, dataset.index)
    shots = train.drawn(spec.training.seed, wanted.shots) if wanted.compare_base and wanted.shots else []
    sources = [source for source in spec.data.eval if source.name not in wanted.forgetting.sets]
    makers = {source.name: Questions(tokenizer, dataset.held_out[source.name].index) for source in sources}
    drawn = {name: maker.spread(wanted.samples) for name, maker in makers.items()}
    new = wanted.max_new_tokens or _longest_answer([one for questions in drawn.values() for one in questions])
    sets = []
    for number, source in enumerate(spec.data.eval):
        if source.name not in makers:
            continue
        usable = _usable(f"spec.data.eval[{number}]", source, drawn[source.name], spec.data.bad_records.max_ratio)
        sets.append(_asked_set(source, usable, makers[source.name], shots, positions - new))
    return Asked(tuple(sets), new)


def _asked_set(
    source: EvalSource, questions: Sequence[Question], maker: Questions, shots: Sequence[Question], room: int
) -> AskedSet:
    """`room`: tokens that a prompt may have."""
    behind = [maker.with_shots(question, shots, room) for question in questions]
    answered = [one.record for one in questions if one.prompt and len(one.prompt) <= room]
    shown = frozenset(answered[:SHOWN])
    return AskedSet(
        name=source.name,
        metrics=source.metrics,
        questions=tuple(questions),
        prompted=tuple(question for question, _ in behind),
        shots=max((count for _, count in behind), default=0),
        generated=frozenset(answered) if source.metrics else shown,
        shown=shown,
    )


def _usable(field: str, source: EvalSource, questions: Sequence[Question], max_ratio: float) -> list[Question]:
    """The records that every metric of the set can be computed of."""
    problems: dict[RecordId, str] = {}
    for place, spec in enumerate(source.metrics):
        metric = make_metric(spec)
        for question in questions:
            problem = "it has no prompt and answer" if question.answer is None else metric.problem(question.answer)
            if problem:
                where = f"{field}.metrics[{place}]: {spec.type} cannot be computed of {question.record}: {problem}"
                problems.setdefault(question.record, where)
    if len(problems) > max_ratio * len(questions):
        raise DataError(
            f"{next(iter(problems.values()))} ({len(problems):,} of {len(questions):,} records that were looked at): "
            f"repair the records, write another metric, or raise spec.data.badRecords.maxRatio"
        )
    return [question for question in questions if question.record not in problems]


def _longest_answer(questions: Sequence[Question]) -> int:
    """Twice the longest answer in tokens, within bounds."""
    lengths = [int(np.count_nonzero(one.document.labels != IGNORED)) for one in questions if one.answer is not None]
    return min(max(2 * max(lengths, default=0), FEWEST_NEW), MOST_NEW)
