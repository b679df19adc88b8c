"""The model that training starts from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.uri import ModelUri

ChatTemplate = Annotated[str, Field(min_length=1, max_length=65536)]


class Model(Part):
    """The model that training starts from: a folder in the Hugging Face layout with safetensors weights."""

    uri: ModelUri
    """Where the model lies: `s3://bucket/folder`, `file:///folder` or `hf://org/name@revision`.

    Without `@revision` the hub's `main` is read, which can change between two runs.
    """

    chat_template: ChatTemplate | None = None
    """Jinja text that turns messages into a prompt, or `file:///template.jinja`; without it, the tokenizer's own."""
