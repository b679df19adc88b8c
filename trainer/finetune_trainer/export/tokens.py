"""The tokenizer beside the weights, and the tokens at which the exported model stops."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from finetune_trainer.data.answers import ChatRenderer
from finetune_trainer.data.formats import CHAT_FORMATS
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


def trained_ends(tokenizer: PreTrainedTokenizerFast, formats: Collection[Format]) -> list[int]:
    """Ids of the tokens that end what was trained: an assistant's turn of conversations, a text of other formats.

    `formats`: as in `DatasetIndex.rendered_formats`.
    """
    ends = []
    if CHAT_FORMATS.intersection(formats):
        sample = ChatRenderer(tokenizer).sample
        answers = [sample.text[start:end] for start, end in sample.spans]
        ends += [tokenizer(answer, add_special_tokens=False)["input_ids"][-1] for answer in answers]
    if isinstance(tokenizer.eos_token_id, int):
        ends.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(ends))
