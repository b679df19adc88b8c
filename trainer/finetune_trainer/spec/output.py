"""What the run leaves behind."""

from __future__ import annotations

from enum import StrEnum

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.uri import StoreUri


class OutputFormat(StrEnum):
    """What is exported."""

    ADAPTER = "Adapter"
    MERGED = "Merged"
    FULL = "Full"


class Output(Part):
    """Where the trained model is written, and as what."""

    uri: StoreUri
    """Folder for the trained model, `s3://bucket/folder` or `file:///folder`."""

    format: OutputFormat = OutputFormat.FULL
    """`Adapter` or `Merged` after LoRA (`Adapter` is chosen), `Full` after full fine-tuning."""
