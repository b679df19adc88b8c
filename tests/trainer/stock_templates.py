"""The chat templates of model families as TRL ships them, with small tokenizers that have their special tokens."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from small_data import make_tokenizer

SPECIAL = re.compile(
    r"<[|｜][^<>\s'|｜]+[|｜]>|</?s>|<(?:start|end)_of_turn>|<\|turn>|<turn\|>|<\|[A-Z_]+_TOKEN\|>|\[/?INST\]"
)
EOS = {"<|im_end|>", "</s>", "<|eot_id|>", "<|END_OF_TURN_TOKEN|>", "<end_of_turn>"}


def stock(name: str) -> str:
    found = importlib.util.find_spec("trl")
    assert found is not None and found.submodule_search_locations
    return (Path(found.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text()


def stock_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that has every special token that the template writes, and whose offsets leave out white space."""
    special = sorted(set(SPECIAL.findall(template)) | {"<eos>"})
    return make_tokenizer(template, special=special, eos=next((token for token in special if token in EOS), "<eos>"))
