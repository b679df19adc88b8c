"""Asks the model before and after training the same questions, and keeps what it answered before over restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from finetune_trainer.context import RunContext
from finetune_trainer.data import RecordId, Row
from finetune_trainer.dataset import Dataset
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup, Tell
from finetune_trainer.engine.loss import Objective
from finetune_trainer.evaluation.asked import Asked, AskedSet, draw
from finetune_trainer.evaluation.contamination import look_for_contamination
from finetune_trainer.evaluation.forgetting import GENERAL_TEXT, general_documents
from finetune_trainer.evaluation.generate import Generator, Prompt
from finetune_trainer.evaluation.losses import Losses, TokenLoss, shortened
from finetune_trainer.evaluation.metrics import make_metric, metric_name
from finetune_trainer.evaluation.overfitting import overfitting
from finetune_trainer.evaluation.questions import Question
from finetune_trainer.evaluation.records import RecordScores, spread_rows
from finetune_trainer.evaluation.report import Json, findings
from finetune_trainer.evaluation.sides import Before, BeforeFile, Contaminated, SetBefore, Side
from finetune_trainer.evaluation.verdict import NATS, LossKind, loss_of
from finetune_trainer.metrics import EVAL_PREFIX, Record
from finetune_trainer.spec import LANGUAGE, OBJECTIVES, JobSpec

CONTEXT = 8192
"""Tokens of the longest prompt with its answer, unless training has longer rows: examples may need more than these."""

LEAST_TOKENS = 2048
"""Tokens of a batch of losses with padding, unless training has longer rows: short records need not go one by one."""

Between = Callable[[], None]


def positions(config: PreTrainedConfig, max_length: int) -> int:
    """Tokens that a prompt and its answer may have together: those that the model has positions for, within limits."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    return max_length if most is None else min(most, max(max_length, CONTEXT))


@dataclass
class Comparison:
    """The model before training against the one after it. Every method is collective.

    `ends`: ids of tokens that end an answer. `context`: tokens that a prompt and its answer may have. `before`: what
    was measured before the first step, once this start has measured or read it.
    """

    spec: JobSpec
    context: RunContext
    control: ControlGroup
    dataset: Dataset
    tokenizer: PreTrainedTokenizerFast
    engine: Any
    forward: Forward
    objective: Objective
    file: BeforeFile
    ends: Sequence[int]
    positions: int
    before: Before | None = None
    _asked: Asked | None = field(default=None, init=False)

    @property
    def by_objective(self) -> bool:
        """Whether records are judged by what the objective makes of them, for lack of answers to compare."""
        wanted = self.spec.evaluation
        return self.spec.objective.type not in LANGUAGE and wanted.compare_base and wanted.samples > 0

    def prepare(self) -> None:
        """Draw the records; DataError for metrics that cannot be computed of them."""
        if self._asked is None and self.spec.objective.type in LANGUAGE and self.spec.evaluation.samples:
            self._asked = self._on_main(lambda tell: draw(self.spec, self.dataset, self.tokenizer, self.positions))

    def begin(self, between: Between) -> None:
        """Before the first step: look for contamination, and ask the model before training, where that is wanted.

        DataError for held-out records among the training records, where the manifest says to fail.
        """
        look = partial(look_for_contamination, self.spec, self.dataset, self.tokenizer)
        found: list[Contaminated] = self._on_main(look) or []
        sets: dict[str, SetBefore] = {}
        forgetting: dict[str, float] = {}
        if self.spec.evaluation.compare_base and self.spec.evaluation.samples:
            sets = {one.name: self._set_before(one, between) for one in self.asked}
            sets |= {name: self._judged_before(rows, between) for name, rows in self._judged}
            forgetting = self._forgetting(between)
            self.engine.train()
        self.before = Before(sets=sets, forgetting=forgetting, contamination=found)
        self.control.agree(self._keep)

    def recall(self) -> None:
        """What an earlier start of the run has measured before the first step; nothing if that is not known."""
        if self.before is None:
            self.before = self._on_main(lambda tell: self.file.read()) or Before()

    def after(self, between: Between, history: Sequence[Record], exported_step: int) -> Json:
        """What came of the run, as `report.findings` has it: the model in the engine against what was measured before.

        `history`: the run's records; `exported_step`: that of the model in the engine.
        """
        self.prepare()
        self.recall()
        assert self.before is not None
        before = self.before
        sides = {one.name: self._side(one, one.questions, one.generated, between) for one in self.asked}
        sides |= {name: self._record_scores.of(rows, between) for name, rows in self._judged}
        forgetting = self._forgetting(between) if before.forgetting else {}
        if self.spec.evaluation.compare_base:
            before = before.model_copy(update={"forgetting": before.forgetting | self._aside(history, 0)})
            forgetting |= self._aside(history, exported_step)
        metrics = {one.name: [metric_name(metric) for metric in one.metrics] for one in self.asked}
        judged_by = self.objective.judged_by
        metrics |= {name: [judged_by] if judged_by else [] for name in sides if name not in metrics}
        samples = [sample for one in self.asked for sample in self._samples(one, before.sets.get(one.name), sides)]
        overfits = overfitting(history, exported_step)
        return findings(metrics, before, sides, forgetting, overfits, samples, self._loss)

    @property
    def asked(self) -> Sequence[AskedSet]:
        """The sets and their records, as drawn; none where there is nothing to compare."""
        return () if self._asked is None else self._asked.sets

    @property
    def _judged(self) -> Iterator[tuple[str, list[Row]]]:
        """The sets that training is about with their records, where the objective judges them."""
        documents = 2 if OBJECTIVES[self.spec.objective.type].paired else 1
        for name, held_out in self.dataset.held_out.items() if self.by_objective else ():
            if name not in self.spec.evaluation.forgetting.sets:
                yield name, spread_rows(held_out, self.spec.evaluation.samples, documents)

    def _judged_before(self, rows: Sequence[Row], between: Between) -> SetBefore:
        return SetBefore(base=self._record_scores.of(rows, between), constant=self._record_scores.constant(rows))

    @property
    def _record_scores(self) -> RecordScores:
        return RecordScores(self.engine, self.objective, self.control)

    @property
    def _loss(self) -> LossKind:
        kind = self.spec.objective.type
        return NATS if kind in LANGUAGE else loss_of(str(kind))

    def _keep(self) -> None:
        if self.control.is_main and self.before is not None:
            self.file.write(self.before)

    def _on_main(self, work: Callable[[Tell], Any]) -> Any:
        """What rank 0 finds, on every rank."""
        return self.control.agree_long(lambda tell: work(tell) if self.control.is_main else None, self.context)[0]

    def _set_before(self, asked: AskedSet, between: Between) -> SetBefore:
        base = self._side(asked, asked.questions, asked.generated, between)
        if not asked.shots:
            return SetBefore(base=base)
        generated = asked.generated if asked.metrics else frozenset()
        return SetBefore(base=base, prompted=self._side(asked, asked.prompted, generated, between), shots=asked.shots)

    def _side(
        self, asked: AskedSet, questions: Sequence[Question], generated: frozenset[RecordId], between: Between
    ) -> Side:
        losses = self._losses.of([shortened(one.document, self.positions) for one in questions], between)
        answers = self._answers(questions, generated, between)
        scores = {
            metric_name(spec): {
                question.record: make_metric(spec).score(answers[question.record], question.answer)
                for question in questions
                if question.record in answers and question.answer is not None
            }
            for spec in asked.metrics
        }
        shown = {record: text for record, text in answers.items() if record in asked.shown}
        return Side(losses=_finite(questions, losses), scores=scores, answers=shown)

    def _answers(
        self, questions: Sequence[Question], generated: frozenset[RecordId], between: Between
    ) -> dict[RecordId, str]:
        chosen = [question for question in questions if question.record in generated]
        prompts = [Prompt(question.prompt, question.stop) for question in chosen]
        texts = self._generator.answers(prompts, between)
        return {question.record: text for question, text in zip(chosen, texts, strict=True)}

    def _samples(self, asked: AskedSet, before: SetBefore | None, sides: Mapping[str, Side]) -> list[Json]:
        """Prompts with what the models answered."""
        models = {"base": before and before.base, "prompted": before and before.prompted, "tuned": sides[asked.name]}
        return [
            {
                "set": asked.name,
                "record": question.record,
                "prompt": self.tokenizer.decode(question.prompt),
                "reference": question.answer,
                **{name: side and side.answers.get(question.record) for name, side in models.items()},
            }
            for question in asked.questions
            if question.record in asked.shown
        ]

    def _forgetting(self, between: Between) -> dict[str, float]:
        """Nats per token of the general text, over all of its tokens; nothing of a model that scores texts."""
        if not self.spec.evaluation.forgetting.sample or OBJECTIVES[self.spec.objective.type].scores:
            return {}
        losses = self._losses.of(general_documents(self.tokenizer, self._longest), between)
        return {GENERAL_TEXT: sum(loss.total for loss in losses) / sum(loss.tokens for loss in losses)}

    def _aside(self, history: Sequence[Record], step: int) -> dict[str, float]:
        """The losses at a step of the sets that training is not about, as far as they were measured."""
        keys = {name: f"{EVAL_PREFIX}{name}" for name in self.spec.evaluation.forgetting.sets}
        found = [record for record in history if record["step"] == step]
        return {n: record[key] for record in found for n, key in keys.items() if record.get(key) is not None}

    @property
    def _longest(self) -> int:
        return self.spec.data.max_length

    @cached_property
    def _losses(self) -> Losses:
        return Losses(self.engine, self.forward, self.control, max(self._longest, LEAST_TOKENS))

    @property
    def _generator(self) -> Generator:
        assert self._asked is not None
        new = self._asked.max_new_tokens
        return Generator(self.engine, self.tokenizer, self.forward.device, self.control, self.ends, new)


def _finite(questions: Sequence[Question], losses: Sequence[TokenLoss]) -> dict[RecordId, float]:
    means = {question.record: loss.mean for question, loss in zip(questions, losses, strict=True)}
    return {record: mean for record, mean in means.items() if np.isfinite(mean)}
