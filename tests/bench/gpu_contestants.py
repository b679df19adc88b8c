"""TRL's SFTTrainer as a contestant on a GPU, in bf16: on our rows, and on the raw records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.contestants import global_batches, plain_model
from bench.trl_contestants import ENDLESS, SETTINGS, forget_launcher, run
from finetune_trainer.estimate import use_gradient_checkpointing
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.spec import FineTuneJob, load_job
from parity import trl_sft

BATCHES = 12  # global batches that TRL gets ready-made, over and over


def identical(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on the global batches of the manifest `payload["job"]`; weights are loaded in `payload["dtype"]`."""
    forget_launcher()
    job = load_job(Path(payload["job"]))
    batches = [batch.rows for batch in global_batches(job, count=BATCHES)]
    model, folder = plain_model(job, getattr(torch, payload["dtype"])), Path(payload["workdir"])
    run(trl_sft.make_trainer(job, batches, folder, model=model, peft_config=adapters(job), **options(job), **ENDLESS))
    return {}


def raw(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on the raw records of the manifest `payload["job"]`, with the `SETTINGS` named `payload["setting"]`."""
    from datasets import load_dataset
    from trl.trainer.sft_trainer import SFTTrainer

    forget_launcher()
    job = load_job(Path(payload["job"]))
    files = [source.uri.removeprefix("file://") for source in job.spec.data.train]
    own = {"max_length": job.spec.data.max_length, "train_sampling_strategy": "random", "dataloader_num_workers": 2}
    own |= options(job) | ENDLESS | SETTINGS[payload["setting"]]
    run(
        SFTTrainer(
            model=plain_model(job, getattr(torch, payload["dtype"])),
            args=trl_sft.sft_config(job, 1, Path(payload["workdir"]), **own),
            train_dataset=load_dataset("json", data_files=files, split="train"),
            processing_class=load_tokenizer(trl_sft.model_folder(job)),
            peft_config=adapters(job),
        )
    )
    return {}


def options(job: FineTuneJob) -> dict[str, Any]:
    """TRL's settings for a GPU that mean what the manifest means: bf16 under autocast."""
    checkpointing = use_gradient_checkpointing(job.spec.training.gradient_checkpointing, on_gpu=True)
    return {
        "use_cpu": False,
        "bf16": True,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
        "dataloader_pin_memory": True,
    }


def adapters(job: FineTuneJob) -> Any:
    """The manifest's adapters for peft, on all linear layers as ours are by default."""
    from peft import LoraConfig

    lora = job.spec.method.lora
    if lora is None:
        return None
    return LoraConfig(r=lora.rank, lora_alpha=int(lora.alpha), target_modules="all-linear", task_type="CAUSAL_LM")
