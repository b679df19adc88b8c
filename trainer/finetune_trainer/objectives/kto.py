"""Kahneman-Tversky optimisation: answers judged one by one, against how far the model has moved on the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from finetune_trainer.data import Row, best_fit, count_documents, deal, document_targets, documents_of, joined
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.loss import Loss, Objective, Whole
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.reference import reference_model
from finetune_trainer.objectives.scoring import ReferenceModel, answer_log_probabilities
from finetune_trainer.objectives.setting import Setting
from finetune_trainer.spec.objective import KTO


@dataclass(frozen=True)
class KahnemanTversky(Objective):
    """The mean over answers of equation 8 of arXiv:2402.01306; `rows_at_a_time`: of the passes for its KL term."""

    forward: Forward
    reference: ReferenceModel
    options: KTO
    max_length: int
    rows_at_a_time: int
    metrics: ClassVar[tuple[str, ...]] = ("rewards/chosen", "rewards/rejected", "kl")

    def weight(self, rows: Sequence[Row]) -> float:
        """Number of answers."""
        return float(count_documents(rows))

    @torch.no_grad()
    def prepare(self, engine: Any, rows: Sequence[Row], control: ControlGroup) -> Whole:
        """The KL term: the mean log-ratio of every prompt of `rows` with the answer to the one before it, at least 0.

        Over the whole global batch, so that it depends on neither ranks nor micro-batches.
        """
        others = mismatched(rows, self.max_length)
        if not self.forward.alone:
            groups = best_fit([len(other) for other in others], self.max_length)
            others = [joined([others[n] for n in group]) for group in groups]
        total = torch.zeros((), dtype=torch.float64, device=self.forward.device)
        lengths = [len(other) for other in others]
        for numbers in deal(lengths, control.rank, control.world_size, self.rows_at_a_time):
            batch = [others[number] for number in numbers]
            before = self.reference.log_probabilities(engine, batch)
            total += (answer_log_probabilities(self.forward, engine, batch) - before).sum()
        return {"kl": max(0.0, control.sum([total.item()])[0] / self.weight(rows))}

    def loss(self, engine: Any, rows: Sequence[Row], whole: Whole) -> Loss:
        """The sum over answers; rewards are beta times the log-ratio of an answer."""
        before = self.reference.log_probabilities(engine, rows)
        kept = self.forward.kept(engine, rows)
        ratios = -kept.sums() - before
        desirable = _desirable(rows, ratios)
        sign = 2 * desirable - 1
        weights = torch.where(desirable > 0, self.options.desirable_weight, self.options.undesirable_weight)
        losses = weights * (1 - torch.sigmoid(self.options.beta * sign * (ratios - whole["kl"])))
        total, rewards = losses.sum(), self.options.beta * ratios.detach()
        parts = {
            "rewards/chosen": ((rewards * desirable).sum(), desirable.sum()),
            "rewards/rejected": ((rewards * (1 - desirable)).sum(), (1 - desirable).sum()),
            "kl": (total.new_tensor(whole["kl"] * kept.count), total.new_tensor(kept.count)),
        }
        return Loss(total, self.sums(parts, total))


def mismatched(rows: Sequence[Row], max_length: int) -> list[Row]:
    """Each document of `rows` with the answer of the one before it, the first with that of the last.

    As TRL's KL completions; what is longer than a row is cut at its end, for it is no text that anybody wrote.
    """
    documents = [document for row in rows for document in documents_of(row)]
    begins = [int(np.argmax(document.trained)) for document in documents]
    found = []
    for n, (document, begin) in enumerate(zip(documents, begins, strict=True)):
        answer, start = documents[n - 1], begins[n - 1]
        ids = np.concatenate([document.tokens[:begin], answer.tokens[start:]])[:max_length]
        trained = np.concatenate([document.trained[:begin], answer.trained[start:]])[:max_length]
        found.append(Row(ids, trained, (len(ids),), document.records))
    return found


def _desirable(rows: Sequence[Row], like: Tensor) -> Tensor:
    """1 for each desirable answer, 0 for the others, [documents]."""
    return torch.from_numpy(document_targets(rows, 1)[:, 0]).to(like.device, like.dtype)


def build(setting: Setting) -> Objective:
    """The objective of `spec.objective.kto`. Raises DataError for data of one kind only."""
    spec, kinds = setting.job.spec, _desirable(setting.first_rows, torch.zeros(()))
    if len(kinds) and (kinds.all() or not kinds.any()):
        kind, other = ("desirable", "false") if kinds.all() else ("undesirable", "true")
        raise DataError(
            f"spec.data.train: all of the first {len(kinds)} answers are {kind}, and KTO needs both kinds: add records "
            f"with label: {other}, or write spec.objective.type: SFT for good answers alone"
        )
    options = spec.objective.kto or KTO()
    return KahnemanTversky(
        setting.forward,
        reference_model(setting, options.reference),
        options,
        spec.data.max_length,
        spec.training.micro_batch_size or 1,
    )
