"""Room in a model for tokens that its tokenizer got beside those of its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast


def token_ids(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> list[int]:
    """Ids of tokens that the tokenizer has, in ascending order."""
    found: Any = tokenizer.convert_tokens_to_ids(list(dict.fromkeys(tokens)))
    return sorted(found)


def new_ids(path: Path, tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> list[int]:
    """Ids of those of `tokens` that the tokenizer's files in the model folder `path` do not have."""
    known = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False).get_vocab()
    return token_ids(tokenizer, [token for token in tokens if token not in known])


@torch.no_grad()
def make_room(model: Any, size: int, new: Sequence[int]) -> None:
    """Give embeddings at least `size` rows, and the rows `new` the mean of all rows that the model had.

    The mean makes new tokens as likely as the others are on average (Hewitt, "Initializing New Word Embeddings", 2021).
    Both embeddings of a model that does not tie them are treated so. Whole weights only, before adapters.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if size > rows:
        model.resize_token_embeddings(size, mean_resizing=False)
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        if embedding is not None and new:
            weight = embedding.weight
            old = torch.ones(rows, dtype=torch.bool)
            old[[row for row in new if row < rows]] = False
            weight[list(new)] = weight[:rows][old].float().mean(0).to(weight.dtype)
