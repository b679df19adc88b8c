"""What a run is about to train, on what: printed before the first step, and stored beside the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from finetune_trainer.data import Counters, Row
from finetune_trainer.data.audit import TemplateCheck, check_template
from finetune_trainer.data.ends import trained_ends
from finetune_trainer.dataset import Dataset
from finetune_trainer.engine.batch import Forward, kept_tokens
from finetune_trainer.model.coverage import Coverage
from finetune_trainer.model.isolation import IsolationReport
from finetune_trainer.model.load import full_shape
from finetune_trainer.spec import LANGUAGE, FineTuneJob

ROWS, TOKENS = 8, 2048
"""The first look ends with either: rows, or trained tokens in them."""

SAME = 0.01
"""Share of the loss by which adapters may change it before training: a rounding step or two in bfloat16."""

NOT_ENDED = 0.01
"""Share of trained parts without a stop token from which on it is worth a warning."""


def compose_audit(
    dataset: Dataset, coverage: Coverage, isolation: IsolationReport | None, versions: dict[str, Any]
) -> dict[str, Any]:
    """JSON: trainable share, adapter coverage, isolation proof, kept-token share, counts, a sample with its mask.

    `labels`: how often each of a classifier's is seen in an epoch. `dataReport`: what `finetune data report` says, of
    the first block of records.
    """
    data, labels = dataset.stream.audit(), dataset.labels
    return {
        "trainableShare": coverage.trainable_share,
        "coverage": coverage.to_json(),
        "isolation": isolation.to_json() if isolation is not None else "not packed",
        "keptTokenShare": data.kept_share,
        "counts": data.counters.model_dump(),
        "sources": data.sources,
        **({} if labels is None else {"labels": dict(zip(labels.names, labels.counts, strict=True))}),
        "dataReport": data.report and data.report.model_dump(mode="json"),
        "datasetId": dataset.id,
        "estimatedSteps": dataset.stream.estimated_batches(),
        "sample": [{"text": text, "trained": trained} for text, trained in data.sample],
        "versions": versions,
    }


def whole_counts(train: Counters, held_out: Mapping[str, Counters]) -> dict[str, Any]:
    """JSON: what became of all records, in place of the counts of a first block that `compose_audit` knows."""
    return {
        "keptTokenShare": train.kept_tokens / train.tokens if train.tokens else 0.0,
        "counts": train.model_dump(),
        "evalCounts": {name: counts.model_dump() for name, counts in held_out.items()},
    }


def look_first(
    job: FineTuneJob,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    engine: Any,
    forward: Forward,
) -> dict[str, Any]:
    """JSON: the loss on the first rows before anything is trained, the check of the template, and warnings; collective.

    Every rank runs the same rows. Nothing for objectives without such a loss, and no loss where training begins with
    another run's checkpoint.
    """
    if job.spec.objective.type not in LANGUAGE:
        return {}
    rows = dataset.stream.first_rows()
    start = tokenizer.bos_token_id if isinstance(tokenizer.bos_token_id, int) else None
    ends = trained_ends(tokenizer, dataset.index.rendered_formats)
    template = check_template(rows, start, ends, job.spec.data.max_length)
    elsewhere = job.spec.model.checkpoint is not None  # its weights are not in the engine yet
    loss = None if elsewhere else start_loss(engine, forward, rows, adapters_off=_without_effect(job))
    return {
        "startLoss": loss,
        "template": template.model_dump(),
        "warnings": [*loss_warnings(loss), *template_warnings(template)],
    }


@torch.no_grad()
def start_loss(
    engine: Any, forward: Forward, rows: Sequence[Row], *, adapters_off: bool = True
) -> dict[str, Any] | None:
    """Nats per trained token of a few rows, with adapters also without them, and of guessing; None without tokens."""
    chosen = _first(rows)
    tokens = kept_tokens(chosen)
    if not tokens:
        return None
    model = engine.module
    engine.eval()
    loss = sum(forward(engine, [row]).item() for row in chosen) / tokens
    base = None
    if adapters_off and hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            base = sum(forward(engine, [row]).item() for row in chosen) / tokens
    engine.train()
    vocabulary = full_shape(model.get_input_embeddings().weight)[0]
    return {"loss": loss, "base": base, "guessing": log(vocabulary), "tokens": tokens}


def _without_effect(job: FineTuneJob) -> bool:
    """Whether adapters begin as nothing: not as earlier ones, nor as a part of the weights (PiSSA, OLoRA)."""
    lora = job.spec.method.lora
    return lora is not None and not lora.takes_weights and job.spec.model.continued_adapter is None


def _first(rows: Sequence[Row]) -> list[Row]:
    chosen: list[Row] = []
    for row in rows[:ROWS]:
        if kept_tokens(chosen) < TOKENS:
            chosen.append(row)
    return chosen


def loss_warnings(found: Mapping[str, Any] | None) -> Iterator[str]:
    """What is odd about the loss before training, as `start_loss` gives it."""
    if found is None:
        return
    loss, base, guessing = found["loss"], found["base"], found["guessing"]
    if not loss < guessing:
        yield (
            f"Before training, the loss is {loss:.2f} nats per token, and guessing among all tokens costs "
            f"{guessing:.2f}: the model knows nothing of such texts; do "
            "tokenizer, chat template and weights belong together?"
        )
    if base is not None and not abs(loss - base) <= SAME * max(base, 1.0):
        yield (
            f"Before training, the adapters change the loss from {base:.4f} to {loss:.4f} nats per token: they should "
            "begin without effect."
        )


def template_warnings(found: TemplateCheck) -> Iterator[str]:
    """What is odd about how texts begin and trained parts end."""
    if found.doubled:
        yield (
            f"{found.doubled:,} of {found.texts:,} texts begin with two start tokens: take one out of the records or "
            "of the chat template."
        )
    if found.turns - found.ended > NOT_ENDED * found.turns:
        yield (
            f"{found.turns - found.ended:,} of {found.turns:,} trained parts do not end with a token that generation "
            "stops at: the model may not learn to stop; look at the end of a turn in the chat template."
        )
