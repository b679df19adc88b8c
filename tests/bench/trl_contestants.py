"""TRL's SFTTrainer as a contestant: on our rows, and on the raw records with settings of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from bench.contestants import WARM_UP, global_batches, plain_model
from bench.turns import Turns
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.spec import FineTuneJob, load_job
from parity import trl_sft

ENDLESS = {"max_steps": 1_000_000, "logging_steps": 10}  # 10: TRL's default

SETTINGS: dict[str, dict[str, Any]] = {
    "padded": {},
    "grouped": {"train_sampling_strategy": "group_by_length"},
    "bfd": {"packing": True, "packing_strategy": "bfd"},
    "wrapped": {"packing": True, "packing_strategy": "wrapped"},
}
"""Ways to train with TRL: padded in random order, padded with rows of like lengths together, packed by best fit (which
TRL trains padding-free), packed by cutting one long text."""

ISOLATING = ("padded", "grouped", "bfd")
"""Those of `SETTINGS` that keep documents apart, by `test_trl_isolation`."""


def identical(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on the global batches of the manifest `payload["job"]`, in the same micro-batches."""
    forget_launcher()
    job = load_job(Path(payload["job"]))
    batches = [batch.rows for batch in global_batches(job)]
    trainer = trl_sft.make_trainer(job, batches, Path(payload["workdir"]), **ENDLESS)
    run(trainer)
    return {}


def raw(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on the raw records of the manifest `payload["job"]`, with the `SETTINGS` named `payload["setting"]`."""
    forget_launcher()
    job = load_job(Path(payload["job"]))
    run(*raw_trainer(job, payload["setting"], Path(payload["workdir"])))
    return {}


def raw_trainer(
    job: FineTuneJob, setting: str, folder: Path, *, model: Any = None, peft_config: Any = None, **own: Any
) -> tuple[Any, float]:
    """An SFTTrainer that tokenises, masks and packs by itself, and how many seconds that took; `own` go to SFTConfig.

    `model`: in place of `plain_model`.
    """
    from datasets import load_dataset
    from trl.trainer.sft_trainer import SFTTrainer

    files = [source.uri.removeprefix("file://") for source in job.spec.data.train]
    options = {"max_length": job.spec.data.max_length, "train_sampling_strategy": "random"} | own | SETTINGS[setting]
    arguments = {
        "model": plain_model(job) if model is None else model,
        "peft_config": peft_config,
        "args": trl_sft.sft_config(job, 1, folder, **(ENDLESS | options)),
        "processing_class": load_tokenizer(trl_sft.model_folder(job)),
    }
    started = time.monotonic()
    trainer = SFTTrainer(train_dataset=load_dataset("json", data_files=files, split="train"), **arguments)
    return trainer, time.monotonic() - started


def forget_launcher() -> None:
    """Leave one plain process to accelerate."""
    for name in trl_sft.LAUNCHER:
        os.environ.pop(name, None)


def run(trainer: Any, preparation: float = 0.0) -> None:
    """Train for ever, in turns; TRL itself counts the tokens that are no padding."""
    from transformers import TrainerCallback

    turns = Turns(WARM_UP)
    counted = 0

    class TakeTurns(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            nonlocal counted
            now = trainer._total_train_tokens
            turns.note(preparation=preparation)
            turns.step_finished(now - counted)
            counted = now

    trainer.add_callback(TakeTurns())
    trainer.train()
