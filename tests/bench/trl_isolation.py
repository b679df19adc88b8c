"""Which of TRL's settings keep documents apart: change one document and look at the losses of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.trl_contestants import SETTINGS, forget_launcher
from finetune_trainer.model.tokenizer import load_tokenizer

WIDTH = 8  # token ids that belong to one document only
LENGTHS = (5, 9, 7, 6, 11, 4)


def leaks(payload: dict[str, Any]) -> dict[str, float]:
    """For every one of `SETTINGS` the largest change (nats) of a token's loss when another document is changed.

    `payload["model"]` is a folder with a model and its tokenizer, `payload["workdir"]` where TRL may write.
    """
    forget_launcher()
    model, workdir = Path(payload["model"]), Path(payload["workdir"])
    return {name: leak(model, workdir, options) for name, options in SETTINGS.items()}


def leak(model: Path, workdir: Path, options: dict[str, Any]) -> float:
    """The largest change over all documents of one batch as the trainer makes it."""
    trainer = make_trainer(model, workdir, options)
    batch = next(iter(trainer.get_train_dataloader()))
    before = losses(trainer, batch)
    changes = [largest_change(trainer, batch, before, document) for document in range(len(LENGTHS))]
    return max(changes)


def make_trainer(model: Path, workdir: Path, options: dict[str, Any]) -> Any:
    """A trainer whose one batch holds all documents; document k is made of the token ids from `first_id(k)` on."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    documents = [[first_id(k) + t % WIDTH for t in range(length)] for k, length in enumerate(LENGTHS)]
    shared: dict[str, Any] = {"output_dir": str(workdir), "use_cpu": True, "bf16": False, "report_to": "none"}
    return SFTTrainer(
        model=str(model),
        args=SFTConfig(**shared, per_device_train_batch_size=len(LENGTHS), max_length=32, seed=1, **options),
        train_dataset=Dataset.from_dict({"input_ids": documents}),
        processing_class=load_tokenizer(model),
    )


def first_id(document: int) -> int:
    """The first token id of a document's range; the special tokens come before all of them."""
    return 8 + document * WIDTH


def losses(trainer: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Log-probability of every next token, as `SFTTrainer.compute_loss` asks the model for it: float32 [B, L-1]."""
    with torch.no_grad():
        found: torch.Tensor = trainer.model.train()(**batch, use_cache=False, fused_lm_head=True).log_probs
    return found


def largest_change(trainer: Any, batch: dict[str, Any], before: torch.Tensor, document: int) -> float:
    """How much the losses of the other documents' tokens move when every token of `document` becomes its neighbour."""
    ids = batch["input_ids"]
    inside = belongs_to(ids, document)
    changed = torch.where(inside, first_id(document) + (ids - first_id(document) + 1) % WIDTH, ids)
    after = losses(trainer, batch | {"input_ids": changed})
    others = ~inside[:, :-1] & ~inside[:, 1:] & (batch["labels"][:, 1:] != -100)
    return float((after - before)[others].abs().max())


def belongs_to(ids: torch.Tensor, document: int) -> torch.Tensor:
    """Where a batch holds the tokens of one document: bool [B, L]."""
    return (ids >= first_id(document)) & (ids < first_id(document) + WIDTH)
