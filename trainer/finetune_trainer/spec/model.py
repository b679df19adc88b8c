"""The model that training starts from."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.uri import ModelUri, StoreUri

WHICH = r"^(latest|best|step:(0|[1-9][0-9]{0,9})|[1-9][0-9]{0,11})$"
WHICH_WORDS = "latest, best, step:N, or a SEQ of `finetune checkpoints list`"
MAX_WHICH = 16


def _check_which(which: str) -> str:
    if not re.fullmatch(WHICH, which):
        raise PydanticCustomError("which", "{message}", {"message": f"names no checkpoint: write {WHICH_WORDS}"})
    return which


ChatTemplate = Annotated[str, Field(min_length=1, max_length=65536)]
Which = Annotated[
    str,
    AfterValidator(_check_which),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_WHICH, "pattern": WHICH}),
]


class StartCheckpoint(Part):
    """A checkpoint of another run on the same base model: training starts from its weights and from nothing else of it.

    Optimizer, schedule and data order are fresh. The world size and ZeRO stage that wrote it do not matter; the method
    must be the same, with LoRA also rank, alpha and target modules.
    """

    uri: StoreUri
    """Folder of the run, as in `status.checkpoint.latest`; or its `checkpoint.uri`, where no other run has written."""

    which: Which = "latest"
    """Which of its checkpoints: `latest`, `best` (lowest held-out loss), `step:N`, or a SEQ of `finetune checkpoints
    list`. It is looked up once, when the run begins."""


class Model(Part):
    """The model that training starts from: a folder in the Hugging Face layout with safetensors weights."""

    uri: ModelUri
    """Where the model lies: `s3://bucket/folder`, `file:///folder` or `hf://org/name@revision`.

    Without `@revision` the hub's `main` is read, which can change between two runs.
    """

    chat_template: ChatTemplate | None = None
    """Jinja text that turns messages into a prompt, or `file:///template.jinja`; without it, the tokenizer's own."""

    checkpoint: StartCheckpoint | None = None
    """Start from the weights in a checkpoint of another run, instead of the untrained model or adapter."""
