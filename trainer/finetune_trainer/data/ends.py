"""The tokens at which a trained model stops."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from finetune_trainer.data.answers import ChatRenderer
from finetune_trainer.data.formats import CHAT_FORMATS
from finetune_trainer.spec.data import Format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
