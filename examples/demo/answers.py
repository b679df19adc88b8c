"""Held-out questions, answered by the model before and after fine-tuning, with plain transformers and peft."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Answered:
    """A held-out question with the answer its docstring gives, the base model's and the tuned model's."""

    question: str
    reference: str
    before: str
    after: str


def held_out_questions(file: Path) -> list[tuple[str, str]]:
    """The held-out file's first question that a sentence answers and its first that a list does, with those answers."""
    chats = [json.loads(line)["messages"] for line in file.read_text(encoding="utf-8").splitlines()]
    asked = [(chat[0]["content"], chat[1]["content"]) for chat in chats]
    lists = [answer.startswith("- ") for _, answer in asked]
    return [asked[lists.index(kind)] for kind in (False, True) if kind in lists]


@torch.inference_mode()
def answer(base: Path, adapter: Path, questions: Sequence[tuple[str, str]]) -> list[Answered]:
    """Greedy answers of the model in `base`, alone and with the LoRA adapter in `adapter`."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of a model that loads at once
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # peft 0.21 asks
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    ask = _asker(model, tokenizer)
    with model.disable_adapter():
        before = [ask(question) for question, _ in questions]
    after = [ask(question) for question, _ in questions]
    return [Answered(*asked, *given) for asked, given in zip(questions, zip(before, after, strict=True), strict=True)]


def _asker(model: Any, tokenizer: Any) -> Callable[[str], str]:
    def ask(question: str) -> str:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        tokens = model.generate(**prompt, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        return str(tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    return ask
