"""The demo's tokenizer and model: nothing is lost in tokens, the template ends every turn, the folder loads again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from finetune_trainer.model.tokenizer import load_tokenizer
from starting_point import END, small_llama, train_tokenizer, write

TEXTS = ["Return the sum of array elements over a given axis.", "Raise ValueError if x < 0:\n\n    >>> f(-1)\n"] * 50
CHAT = [
    {"role": "user", "content": "What does `sum(a)` do?"},
    {"role": "assistant", "content": "Return the sum."},
    {"role": "user", "content": "And `prod(a)`?"},
    {"role": "assistant", "content": "Return the product."},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocabulary=400)


@pytest.mark.parametrize("text", [TEXTS[1], "tabs\tand  spaces\r\n", "Ünïcödé 漢字 🙂", "\x00\x7f"])
def test_every_text_survives_tokenising(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_no_token_is_added_unasked_and_padding_is_no_end(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("")["input_ids"] == []
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_template_ends_every_turn_with_one_token_and_prompts_for_an_answer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    whole = str(tokenizer.apply_chat_template(CHAT, tokenize=False))
    prompt = str(tokenizer.apply_chat_template(CHAT[:3], tokenize=False, add_generation_prompt=True))
    assert whole.startswith(prompt)
    assert whole[len(prompt) :] == f"Return the product.{END}\n"
    assert tokenizer(whole)["input_ids"].count(tokenizer.eos_token_id) == len(CHAT)


def test_the_folder_loads_with_plain_transformers_and_with_the_trainer(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = small_llama(tokenizer, hidden=64, layers=1, seed=0)
    write(tmp_path, tokenizer, model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.tensor([AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0])["input_ids"]])
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id
    assert load_tokenizer(tmp_path).chat_template == tokenizer.chat_template


def test_the_model_depends_on_its_seed_only(tokenizer: PreTrainedTokenizerFast) -> None:
    first, same, other = (small_llama(tokenizer, hidden=64, layers=1, seed=seed) for seed in (1, 1, 2))
    weight = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(first.state_dict()[weight], same.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])
