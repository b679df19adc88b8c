"""The tokenizer beside the weights, and the tokens at which the exported model stops."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from finetune_trainer.data.ends import trained_ends
from finetune_trainer.export.config import write_generation_config
from finetune_trainer.spec.data import Format


def export_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
    formats: Collection[Format],
    model_path: Path,
    folder: Path,
    *,
    scores: bool = False,
) -> None:
    """Write the tokenizer with the chat template in use, and generation settings that stop at a trained turn's end.

    `scores`: the model generates nothing, so that there is nothing to set.
    """
    tokenizer.save_pretrained(folder)
    if scores:
        return
    pad = tokenizer.pad_token_id
    write_generation_config(model_path, folder, trained_ends(tokenizer, formats), pad if isinstance(pad, int) else None)
