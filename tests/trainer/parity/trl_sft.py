"""TRL's SFTTrainer in a process of its own, fed with the rows of our stream: an independent trainer."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

from finetune_trainer.data import DataSettings, Row, TrainStream, build_index, list_sources
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.spec import FineTuneJob, load_job

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def train(payload: dict[str, Any]) -> dict[str, Any]:
    """Train `payload["job"]` (a manifest with `maxSteps`, in float32) and return `losses` and `norms`, one per step.

    `folder` is where TRL may write. Each optimizer step sees one of our global batches, in our micro-batches.
    """
    for name in LAUNCHER:  # accelerate takes them for a launch of DistributedDataParallel
        os.environ.pop(name, None)
    job = load_job(Path(payload["job"]))
    trainer = make_trainer(job, global_batches(job), Path(payload["folder"]))
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": [step["loss"] for step in steps], "norms": [step["grad_norm"] for step in steps]}


def global_batches(job: FineTuneJob) -> list[list[Row]]:
    """The rows of each global batch, as a world of one rank takes them."""
    index = build_index(list_sources(job.spec.data.train, "spec.data.train"))
    micro_batch_size = job.spec.training.micro_batch_size or 1
    stream = TrainStream(index, DataSettings.of(job.spec, micro_batch_size), load_tokenizer(model_folder(job)))
    return [batch.rows for batch in islice(stream.batches(), job.spec.training.max_steps)]


def model_folder(job: FineTuneJob) -> Path:
    """The folder behind the manifest's `file://` address."""
    return Path(job.spec.model.uri.removeprefix("file://"))


def make_trainer(
    job: FineTuneJob,
    batches: list[list[Row]],
    folder: Path,
    *,
    model: Any = None,
    peft_config: Any = None,
    **options: Any,
) -> Any:
    """An SFTTrainer that takes `batches` one after the other, with the manifest's optimizer; `options` go to SFTConfig.
    `model`: in place of what TRL loads.

    Rows are handed over as token ids and labels, which TRL uses as they are. Packed rows also carry their documents'
    lengths and are trained "padding-free", TRL's way of keeping documents apart.
    """
    from datasets import Dataset
    from trl.trainer.sft_trainer import SFTTrainer

    rows = [row for batch in batches for row in batch]
    return SFTTrainer(
        model=str(model_folder(job)) if model is None else model,
        peft_config=peft_config,
        args=sft_config(job, len(batches), folder, padding_free=any(len(row.records) > 1 for row in rows), **options),
        train_dataset=Dataset.from_list([as_record(row) for row in rows]),
        processing_class=load_tokenizer(model_folder(job)),
    )


def as_record(row: Row) -> dict[str, list[int]]:
    """A row under TRL's column names."""
    starts = [t for t, position in enumerate(row.position_ids.tolist()) if position == 0]
    ends = [*starts[1:], len(row)]
    return {
        "input_ids": row.input_ids.tolist(),
        "labels": row.labels.tolist(),
        "seq_lengths": [end - start for start, end in zip(starts, ends, strict=True)],
    }


def sft_config(job: FineTuneJob, steps: int, folder: Path, **options: Any) -> Any:
    """TRL's settings that mean what the manifest means, on the CPU in float32; the schedule must be constant."""
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig(**(training_options(job, steps, folder) | {"max_length": None} | options))


def training_options(job: FineTuneJob, steps: int, folder: Path) -> dict[str, Any]:
    """Those of them that every trainer of transformers and TRL has."""
    training = job.spec.training
    micro = training.micro_batch_size or 1
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_steps": steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": training.global_batch_size // micro,
        "train_sampling_strategy": "sequential",
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",
        "adam_beta1": training.optimizer.betas[0],
        "adam_beta2": training.optimizer.betas[1],
        "adam_epsilon": training.optimizer.eps,
        "weight_decay": training.optimizer.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
