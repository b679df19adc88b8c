"""What a finished run says of itself: the numbers that people compare, computed from its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data import Counters
from finetune_trainer.metrics import LARGEST_EXPONENT, Record, losses_by_set, metrics_by_set, perplexity
from finetune_trainer.state import Progress, finite


def held_out_losses(records: Sequence[Record], step: int) -> tuple[float | None, dict[str, float | None]]:
    """Mean held-out loss at `step` and that of each set, in nats per token; None and {} if there was no evaluation."""
    found = [record for record in records if record["step"] == step and "evalLoss" in record]
    if not found:
        return None, {}
    losses = {name: finite(loss) for name, loss in losses_by_set(found[-1]).items()}
    return finite(found[-1]["evalLoss"]), losses


def held_out_metrics(records: Sequence[Record], step: int) -> dict[str, dict[str, float]]:
    """The metrics at `step` of each held-out set, by set and name; {} if there was no evaluation."""
    found = [record for record in records if record["step"] == step and "evalLoss" in record]
    return metrics_by_set(found[-1]) if found else {}


def tokens_per_second(records: Sequence[Record]) -> float | None:
    """Non-padding tokens of all ranks per second of training steps, waits for data included, over the whole run."""
    steps = [record for record in records if "seconds" in record]
    seconds = sum(record["seconds"] for record in steps)
    return steps[-1]["tokens"] / seconds if seconds else None


def data_wait_share(records: Sequence[Record]) -> float | None:
    """The share of the training steps' time in which rank 0 waited for data."""
    steps = [record for record in records if "dataSeconds" in record]
    seconds = sum(record["seconds"] for record in steps)
    return sum(record["dataSeconds"] for record in steps) / seconds if seconds else None


def verdict(base: float | None, tuned: float | None) -> str | None:
    """`Improved` if the held-out loss fell below the base model's, else `NotImproved`; None if either is unknown."""
    if base is None or tuned is None:
        return None
    return "Improved" if tuned < base else "NotImproved"


def verdict_text(base: float | None, tuned: float | None, note: str | None, unit: str = "") -> str | None:
    """The same as a sentence, with `note`: why there is no comparison of single records; `unit`: of losses."""
    if base is None or tuned is None:
        return None
    moved = "fell" if tuned < base else "did not fall"
    why = f"; no interval, because {note}" if note else ""
    return f"Held-out loss {moved}: {base:.4f}{unit} before training, {tuned:.4f} after{why}."


def perplexities(losses: Mapping[str, float | None]) -> dict[str, float]:
    """exp of each loss that is known and whose exponential is a number."""
    return {name: perplexity(loss) for name, loss in losses.items() if loss is not None and loss < LARGEST_EXPONENT}


def overlong(counts: Counters) -> dict[str, int]:
    """What was done about records longer than `maxLength`, and the tokens that were lost by it; only what happened."""
    found = {
        "truncated": counts.truncated,
        "split": counts.split,
        "dropped": counts.dropped,
        "lostTokens": counts.lost_tokens,
    }
    return {name: number for name, number in found.items() if number}


def summarise(
    progress: Progress,
    records: Sequence[Record],
    exported_step: int,
    note: str | None = None,
    *,
    language: bool = True,
) -> dict[str, Any]:
    """The numbers of the result, by the names that events have.

    `evalLoss` is the held-out loss of the exported weights, `baseLoss` of the untrained ones, `loss` the last step's;
    `evalMetrics` and `baseMetrics` are the objective's metrics of both, by held-out set. `evalPerplexities` are those
    of the exported weights, where `language` says that losses are nats per token. `note`: why nothing was compared
    record by record.
    `overlong` counts over all epochs, `evalOverlong` over one pass through each set that has such records.
    """
    held_out = {name: overlong(counts) for name, counts in progress.eval_counts.items()}
    loss, losses = held_out_losses(records, exported_step)
    return {
        "step": progress.step,
        "epoch": progress.epoch,
        "loss": finite(progress.loss),
        "evalLoss": loss,
        "baseLoss": progress.base_mean,
        "evalLosses": losses,
        "baseLosses": progress.base or {},
        "evalMetrics": held_out_metrics(records, exported_step),
        "baseMetrics": held_out_metrics(records, 0),
        "evalPerplexities": perplexities(losses) if language else {},
        "verdict": verdict(progress.base_mean, loss),
        "verdictText": verdict_text(progress.base_mean, loss, note, " nats per token" if language else ""),
        "exportedStep": exported_step,
        "best": progress.best.model_dump() if progress.best is not None else None,
        "tokens": progress.tokens,
        "tokensPerSecond": tokens_per_second(records),
        "dataWaitShare": data_wait_share(records),
        "keptTokenShare": progress.kept_tokens / progress.tokens if progress.tokens else None,
        "skippedSteps": progress.skipped,
        "overlong": overlong(progress.data.counters) if progress.data is not None else {},
        "evalOverlong": {name: counts for name, counts in held_out.items() if counts},
    }
