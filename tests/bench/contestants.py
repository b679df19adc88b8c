"""The programs that are measured: the product itself, and a bare DeepSpeed loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench.turns import Turns
from finetune_trainer.data import DataSettings, Row, StepBatch, TrainStream, build_index, collate, list_sources
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.spec import FineTuneJob, load_job
from parity import trl_sft

WARM_UP = 2  # optimizer steps: the first allocates gradients and the optimizer's state
PREPARED = 40  # global batches that peers get ready-made, over and over; ours reads its stream


# --- the product: the loop that `finetune run` runs, whole, with a reporter that takes turns


def ours(payload: dict[str, Any]) -> dict[str, Any]:
    """Train the manifest `payload["job"]`; scratch files go below `payload["workdir"]`. On GPUs if it says so."""
    import torch.distributed as dist

    from finetune_trainer.context import RunContext, SilentReporter, StopSignal, process_group_backend
    from finetune_trainer.loop import train

    job = load_job(Path(payload["job"]))
    on_gpu = job.spec.workers.gpus_per_replica > 0
    dist.init_process_group(process_group_backend(on_gpu), timeout=timedelta(minutes=10))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = f"cuda:{rank}" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(rank)
    reporter = TurnReporter(Turns(WARM_UP)) if rank == 0 else SilentReporter()
    workdir = Path(payload["workdir"])
    place = (rank, world_size, rank, world_size)
    context = RunContext(*place, device=device, attempt=None, reporter=reporter, stop=StopSignal(), workdir=workdir)
    return train(job, context)


class TurnReporter:
    """Counts steps by the loop's own progress events, and notes the losses of all of them so far."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._tokens = 0
        self._losses: list[object] = []

    def report(self, event: Mapping[str, object]) -> Any:
        """Take an event of rank 0; returns when the run may go on."""
        from finetune_trainer.context import Answer

        if event["kind"] == "progress":
            tokens = event["tokens"]
            assert isinstance(tokens, int)
            self._losses.append(event["loss"])
            self._turns.note(losses=list(self._losses))
            self._turns.step_finished(tokens - self._tokens)
            self._tokens = tokens
        return Answer()


# --- a bare DeepSpeed loop: what one would write by hand, on batches that are ready before it starts


def bare(payload: dict[str, Any]) -> dict[str, Any]:
    """Train the manifest's model with its DeepSpeed configuration and nothing else around it.

    `payload["loss"]` is `transformers`, the model's own loss over all positions, or `kept`, our head and cross-entropy
    over the positions with a label.
    """
    import deepspeed
    import torch.distributed as dist

    from finetune_trainer.engine.config import deepspeed_config

    dist.init_process_group("gloo", timeout=timedelta(minutes=10))
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    job = load_job(Path(payload["job"]))
    model = plain_model(job)
    loss_of = KeptLoss(model) if payload["loss"] == "kept" else transformers_loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.spec.training.learning_rate, fused=True)
    config = deepspeed_config(job, dist.get_world_size(), on_gpu=False)
    engine, _, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    turns = Turns(WARM_UP) if dist.get_rank() == 0 else None
    for micro_batches, tokens in prepared(job, dist.get_rank(), dist.get_world_size()):
        for batch in micro_batches:
            engine.backward(loss_of(engine, batch))
            engine.step()
        if turns is not None:
            turns.step_finished(tokens)
    return {}


def plain_model(job: FineTuneJob, dtype: torch.dtype = torch.float32, *, kind: str = "AutoModelForCausalLM") -> Any:
    """The model as transformers loads it, by the auto class named `kind`."""
    import transformers

    load: Any = getattr(transformers, kind).from_pretrained
    return load(trl_sft.model_folder(job), dtype=dtype, attn_implementation="sdpa").train()


def transformers_loss(engine: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean loss that a model of transformers computes from `labels`."""
    loss: torch.Tensor = engine(**batch, use_cache=False).loss
    return loss


class KeptLoss:
    """The mean loss with logits at labelled positions only."""

    def __init__(self, model: Any) -> None:
        from finetune_trainer.model.head import KeptPositions

        self._head = KeptPositions(model)

    def __call__(self, engine: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        from finetune_trainer.model.cross_entropy import kept_loss_sum
        from finetune_trainer.model.head import kept_positions

        index, targets = kept_positions(batch["labels"])
        with self._head.select(index):
            logits = engine(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        return kept_loss_sum(logits, targets, reuse_memory=True) / max(1, len(targets))


def prepared(job: FineTuneJob, rank: int, world_size: int) -> Iterator[tuple[list[dict[str, torch.Tensor]], int]]:
    """This rank's micro-batches of each global batch as tensors, and the batch's tokens; for ever."""
    batches = []
    for batch in global_batches(job, rank, world_size):
        tensors = [as_tensors(rows) for rows in batch.micro_batches]
        batches.append((tensors, batch.tokens))
    while True:
        yield from batches


def as_tensors(rows: list[Row]) -> dict[str, torch.Tensor]:
    """`input_ids`, `labels` and `position_ids`, int64 [B, L]."""
    arrays = collate(rows, pad_id=0)
    return {
        "input_ids": torch.from_numpy(arrays["input_ids"]),
        "labels": torch.from_numpy(arrays["labels"]),
        "position_ids": torch.from_numpy(arrays["position_ids"]),
    }


def global_batches(job: FineTuneJob, rank: int = 0, world_size: int = 1, count: int = PREPARED) -> list[StepBatch]:
    """The first global batches of the product's stream."""
    index = build_index(list_sources(job.spec.data.train, "spec.data.train"))
    tokenizer = load_tokenizer(trl_sft.model_folder(job))
    settings = DataSettings.of(job.spec, job.spec.training.micro_batch_size or 1)
    stream = TrainStream(index, settings, tokenizer, rank, world_size)
    with closing(stream.batches()) as batches:
        return list(islice(batches, count))
