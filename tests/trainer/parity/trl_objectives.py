"""Losses and gradients of TRL's own trainers on one batch of records, in a process of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def losses(payload: dict[str, Any]) -> dict[str, Any]:
    """For each of `payload["cases"]` TRL's loss of all records of its file; gradients go to `<folder>/<case>`.

    A case names its `trainer`, `data`, and `options` of TRL's config. `policy` and `reference` are folders of models.
    """
    for name in LAUNCHER:  # accelerate takes them for a launch of DistributedDataParallel
        os.environ.pop(name, None)
    folder = Path(payload["folder"])
    return {name: _loss(case, payload, folder / name) for name, case in payload["cases"].items()}


def _loss(case: dict[str, Any], payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    from safetensors.torch import save_file

    records = [json.loads(line) for line in Path(case["data"]).read_text().splitlines()]
    trainer = _trainer(case, payload, records, folder / "trl")
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    if case["trainer"] == "ORPO":
        loss, metrics = trainer.get_batch_loss_metrics(trainer.model, inputs)
    else:
        loss = trainer._compute_loss(trainer.model, inputs, False)
        metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    loss.backward()
    gradients = {name: p.grad.contiguous() for name, p in trainer.model.named_parameters() if p.grad is not None}
    save_file(gradients, folder / "gradients.safetensors")
    return {"loss": float(loss), "metrics": metrics}


def _trainer(case: dict[str, Any], payload: dict[str, Any], records: list[dict[str, Any]], folder: Path) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    made: Any = {"DPO": (DPOConfig, DPOTrainer), "KTO": (KTOConfig, KTOTrainer), "ORPO": (ORPOConfig, ORPOTrainer)}
    config, trainer = made[case["trainer"]]
    args = config(
        output_dir=str(folder),
        per_device_train_batch_size=len(records),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        max_length=512,
        disable_tqdm=True,
        **case["options"],
    )

    def load(path: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(path, dtype="float32")

    reference = {} if case["trainer"] == "ORPO" else {"ref_model": load(payload["reference"])}
    return trainer(
        model=load(payload["policy"]),
        args=args,
        train_dataset=Dataset.from_list(records),
        processing_class=AutoTokenizer.from_pretrained(payload["policy"]),
        **reference,
    )
