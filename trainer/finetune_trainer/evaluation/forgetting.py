"""How far training changed the loss on general text: what a model forgets shows there first (as peft's benchmark does).

The text that comes along is this project's own, written for it; see `general_text.txt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from finetune_trainer.data.encode import Document
from finetune_trainer.data.rows import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERAL_TEXT = "general text"
"""Name of the sample that comes along."""


def paragraphs() -> list[str]:
    """The paragraphs of the sample, without its notes (lines that begin with #)."""
    text = files("finetune_trainer.evaluation").joinpath("general_text.txt").read_text(encoding="utf-8")
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [paragraph.strip() for paragraph in kept.split("\n\n") if paragraph.strip()]


def general_documents(tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Document]:
    """The paragraphs as the tokenizer writes texts, of at most `max_length` tokens; all but the first are predicted."""
    encoded: Sequence[Sequence[int]] = tokenizer(paragraphs())["input_ids"]
    documents = []
    for tokens in encoded:
        ids = np.array(tokens[:max_length], dtype=np.int32)
        labels = ids.copy()
        labels[:1] = IGNORED
        if len(ids) > 1:
            documents.append(Document(ids, labels))
    return documents
