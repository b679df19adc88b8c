"""The model that training starts from."""

from __future__ import annotations

import re
from enum import StrEnum
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


AddedToken = Annotated[str, Field(min_length=1, max_length=128)]
AddedTokens = Annotated[tuple[AddedToken, ...], Field(max_length=1024)]
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


class AdapterUse(StrEnum):
    """What becomes of an adapter that training starts from."""

    CONTINUE = "Continue"
    MERGE = "Merge"


class StartAdapter(Part):
    """A LoRA adapter in PEFT's layout, trained on the model at `model.uri`, from whatever trainer."""

    uri: ModelUri
    """Where it lies, as in `model.uri`: for instance the `output.uri` of another job with `output.format: Adapter`."""

    use: AdapterUse = AdapterUse.CONTINUE
    """`Continue` trains it on: `method.lora` must say what it is. `Merge` adds it to the model's weights first, for any
    method; what is exported is a whole model then."""


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

    adapter: StartAdapter | None = None
    """Start from the model with this adapter, instead of the untrained model."""

    added_tokens: AddedTokens = ()
    """Tokens that the tokenizer shall have beside its own, for instance `<tool_call>`. Embeddings of new ones begin as
    the mean of all others; with LoRA the embeddings of all of them are trained beside the adapters, and no others."""

    @property
    def continued_adapter(self) -> StartAdapter | None:
        """The adapter that is trained on; not one that is merged first."""
        return self.adapter if self.adapter is not None and self.adapter.use is AdapterUse.CONTINUE else None
