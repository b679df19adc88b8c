"""Whether a run went on past its best: held-out loss against its own lowest, and against the training loss; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer.metrics import Record

RISE = 0.01
"""Share, of the lowest held-out loss and of what training had gained until then, by which the last loss must lie above
the lowest. A choice of this project, not of the literature: less is taken for noise of the last steps."""

WINDOW = 20
"""Steps over which the training loss is averaged."""


@dataclass(frozen=True)
class Overfitting:
    """Losses as the objective has them. `gap`: held-out less training loss at the end, over the last `WINDOW` steps.

    `overfits`: the held-out loss rose by more than `RISE` after its lowest value, at `best_step`. It is the objective's
    loss, never a margin or an accuracy; the gain is the other scale because losses of pairs and labels end near zero,
    where a share of the loss is nothing.
    """

    overfits: bool
    best_step: int
    best_loss: float
    last_step: int
    last_loss: float
    gap: float | None
    text: str


def overfitting(records: Sequence[Record], exported_step: int) -> Overfitting | None:
    """What a run's history says of it; None for a run with fewer than two evaluations after its first step."""
    evaluated = [(record["step"], record["evalLoss"]) for record in records if record.get("evalLoss") is not None]
    found = [(step, loss) for step, loss in evaluated if step > 0]
    if len(found) < 2:
        return None
    best_step, best = min(found, key=lambda pair: (pair[1], pair[0]))
    last_step, last = found[-1]
    train = [record["loss"] for record in records if record.get("loss") is not None][-WINDOW:]
    gap = last - sum(train) / len(train) if train else None
    gained = max(loss for step, loss in evaluated if step <= best_step) - best
    overfits = last - best > RISE * max(abs(best), gained)
    text = f"held-out loss was lowest at step {best_step}, {best:.4f}, and ended at {last:.4f}, step {last_step}"
    if overfits:
        kept = "" if exported_step == last_step else f"; step {exported_step} is exported"
        text = f"The run overfits: {text}{kept}. Fewer epochs, a lower learning rate or more data would help."
    else:
        text = f"No overfitting: {text}."
    return Overfitting(overfits, best_step, best, last_step, last, gap, text)
