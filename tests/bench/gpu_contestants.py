"""TRL's SFTTrainer as a contestant on a GPU, in bf16: on our rows, and on the raw records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.contestants import global_batches, plain_model
from bench.trl_contestants import ENDLESS, forget_launcher, raw_trainer, run
from finetune_trainer.estimate import use_gradient_checkpointing
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
    """Train on the raw records of the manifest `payload["job"]`, by `trl_contestants.SETTINGS[payload["setting"]]`."""
    forget_launcher()
    job = load_job(Path(payload["job"]))
    model = plain_model(job, getattr(torch, payload["dtype"]))
    own = options(job) | {"peft_config": adapters(job), "dataloader_num_workers": 2}
    run(*raw_trainer(job, payload["setting"], Path(payload["workdir"]), model=model, **own))
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
