"""Direct preference optimisation: of two answers, the chosen one shall gain more on the reference model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from finetune_trainer.data import Row
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.loss import Between, Loss, Objective, Whole
from finetune_trainer.objectives import pairs
from finetune_trainer.objectives.reference import reference_model
from finetune_trainer.objectives.scoring import ReferenceModel
from finetune_trainer.objectives.setting import Setting
from finetune_trainer.spec.objective import DPO, DPOLoss

LOSSES: dict[DPOLoss, Callable[[Tensor, DPO], Tensor]] = {
    DPOLoss.SIGMOID: lambda delta, dpo: (
        -(1 - dpo.label_smoothing) * logsigmoid(dpo.beta * delta) - dpo.label_smoothing * logsigmoid(-dpo.beta * delta)
    ),
    DPOLoss.IPO: lambda delta, dpo: (delta - 1 / (2 * dpo.beta)) ** 2,
    DPOLoss.HINGE: lambda delta, dpo: (1 - dpo.beta * delta).relu(),
}
"""The loss of each pair, [P], of its difference of log-ratios.

Sigmoid: equation 7 of arXiv:2305.18290, smoothed as in its authors' note on conservative DPO. IPO: equation 17 of
arXiv:2310.12036. Hinge: SLiC-HF (arXiv:2305.10425) on the ratio to the reference, as in arXiv:2309.06657.
"""


@dataclass(frozen=True)
class DirectPreference(Objective):
    """The mean over pairs."""

    forward: Forward
    reference: ReferenceModel
    options: DPO
    metrics: ClassVar[tuple[str, ...]] = pairs.METRICS

    def begin(self, engine: Any, fresh: bool, between: Between) -> None:
        """Let the reference compute what it shall know before training."""
        self.reference.begin(engine, fresh, between)

    def weight(self, rows: Sequence[Row]) -> float:
        """Number of pairs."""
        return pairs.count(rows)

    def loss(self, engine: Any, rows: Sequence[Row], whole: Whole) -> Loss:
        """The sum over pairs; rewards are beta times the log-ratio of an answer."""
        before = self.reference.log_probabilities(engine, rows)  # first, while no activations are kept
        kept = self.forward.kept(engine, rows)
        ratios = -kept.sums() - before
        rewards = pairs.apart(self.options.beta * ratios.detach())
        # IPO on means over tokens, as its authors confirmed to TRL: a squared sum would grow with the length.
        per_answer = ratios / kept.lengths() if self.options.loss is DPOLoss.IPO else ratios
        chosen, rejected = pairs.apart(per_answer)
        total = LOSSES[self.options.loss](chosen - rejected, self.options).sum()
        return Loss(total, self.sums(pairs.measured(*rewards), total))


def build(setting: Setting) -> Objective:
    """The objective of `spec.objective.dpo`."""
    options = setting.job.spec.objective.dpo or DPO()
    return DirectPreference(setting.forward, reference_model(setting, options.reference), options)
