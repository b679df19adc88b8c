"""Masks under the stock chat templates of many model families, as TRL ships them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_trainer.data.conversations import from_messages
from finetune_trainer.data.encode import Document, Encoder
from finetune_trainer.data.examples import BadRecord
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Format
from small_data import CHATML, make_tokenizer, trained_texts
from stock_templates import stock, stock_tokenizer

USER: dict[str, Any] = {"role": "user", "content": "Hi there"}
PLAIN: list[dict[str, Any]] = [
    USER,
    {"role": "assistant", "content": "Hello, I am well."},
    {"role": "user", "content": "Tell me"},
    {"role": "assistant", "content": "It is 42."},
]
REASONED: list[dict[str, Any]] = [
    USER,
    {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHello."},
    {"role": "user", "content": "Tell me"},
    {"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nIt is 42."},
]
CALL = {"type": "function", "id": "call12345", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
CALLED: list[dict[str, Any]] = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "clock", "tool_call_id": "call12345", "content": "noon"},
    {"role": "assistant", "content": "At noon."},
]


def encoded(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]]) -> Document:
    document = Encoder(tokenizer, [Format.MESSAGES]).encode([from_messages(messages)])[0]
    assert isinstance(document, Document), document
    return document


def trained(template: str, messages: list[dict[str, Any]]) -> list[str]:
    tokenizer = stock_tokenizer(template)
    document = encoded(tokenizer, messages)
    return trained_texts(tokenizer, document.input_ids, document.labels)


def refusal(template: str, messages: list[dict[str, Any]]) -> str:
    document = Encoder(stock_tokenizer(template), [Format.MESSAGES]).encode([from_messages(messages)])[0]
    assert isinstance(document, BadRecord), document
    return str(document)


@pytest.mark.parametrize(
    "name",
    [
        "cohere",
        "cohere2",
        "gemma",
        "gemma3",
        "lfm2",
        "lfm2_v2",
        "llama3",
        "qwen2_5_vl",
        "qwen3_instruct_2507",
        "qwen3_vl",
    ],
)
def test_masks_agree_with_those_of_trl(name: str) -> None:
    """TRL marks answers in patched copies of the templates, and trains a newline behind the turn's end too."""
    tokenizer = stock_tokenizer(stock(name))
    theirs: Any = tokenizer.apply_chat_template(
        PLAIN, chat_template=stock(f"{name}_training"), return_assistant_tokens_mask=True, return_dict=True
    )
    labels = [
        token if kept else -100 for token, kept in zip(theirs["input_ids"], theirs["assistant_masks"], strict=True)
    ]
    expected = [text.rstrip("\n") for text in trained_texts(tokenizer, theirs["input_ids"], labels)]
    ours = encoded(tokenizer, PLAIN)
    assert ours.input_ids.tolist() == theirs["input_ids"]
    assert trained_texts(tokenizer, ours.input_ids, ours.labels) == expected
    assert len(expected) == 2


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("deepseekv3", "<｜end▁of▁sentence｜>"),
        ("gemma4", "<turn|>"),
        ("llama3_1", "<|eot_id|>"),
        ("llama3_2", "<|eot_id|>"),
        ("nemotron_3_nano", "<|im_end|>"),
        ("phi3", "<|end|>"),
        ("phi3_5", "<|end|>"),
        ("qwen2_5", "<|im_end|>"),
        ("qwen3_5_nothink", "<|im_end|>"),
    ],
)
def test_answers_are_trained_with_the_token_that_ends_their_turn(name: str, end: str) -> None:
    assert trained(stock(name), PLAIN) == [f"Hello, I am well.{end}", f"It is 42.{end}"]


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        # Qwen 3 drops earlier reasoning, and opens an empty one for the last answer that has none.
        ("qwen3", ["Hello.<|im_end|>", "<think>\nLet me see.\n</think>\n\nIt is 42.<|im_end|>"]),
        # Its successor's prompt opens the reasoning, which is then not the model's to write.
        ("qwen3_5_think", ["Hello.<|im_end|>", "Let me see.\n</think>\n\nIt is 42.<|im_end|>"]),
        # R1 drops all reasoning, though its prompt opens one.
        ("deepseek_r1_distill", ["Hello.<｜end▁of▁sentence｜>", "It is 42.<｜end▁of▁sentence｜>"]),
        ("llama3", [f"{REASONED[1]['content']}<|eot_id|>", f"{REASONED[3]['content']}<|eot_id|>"]),
    ],
)
def test_reasoning_is_trained_where_the_template_keeps_it(name: str, texts: list[str]) -> None:
    assert trained(stock(name), REASONED) == texts


def test_what_stands_between_prompt_and_answer_is_the_models_to_write() -> None:
    assert trained(stock("qwen3"), PLAIN)[1] == "<think>\n\n</think>\n\nIt is 42.<|im_end|>"
    assert trained(stock("gptoss"), PLAIN) == [
        "<|channel|>final<|message|>Hello, I am well.<|end|>",
        "<|channel|>final<|message|>It is 42.<|return|>",
    ]


@pytest.mark.parametrize(
    ("name", "call", "answer"),
    [
        (
            "qwen3",
            '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call><|im_end|>',
            "<think>\n\n</think>\n\nAt noon.<|im_end|>",
        ),
        ("llama3_1", '{"name": "clock", "parameters": {"zone": "UTC"}}<|eot_id|>', "At noon.<|eot_id|>"),
        (
            "gptoss",
            ' to=functions.clock<|channel|>commentary json<|message|>{"zone": "UTC"}<|call|>',
            "<|channel|>final<|message|>At noon.<|return|>",
        ),
        (
            "nemotron_3_nano",
            "</think>\n<tool_call>\n<function=clock>\n<parameter=zone>\nUTC\n</parameter>\n</function>\n</tool_call>\n<|im_end|>",
            "At noon.<|im_end|>",
        ),
    ],
)
def test_tool_calls_are_trained_and_what_tools_answer_is_not(name: str, call: str, answer: str) -> None:
    assert trained(stock(name), CALLED) == [call, answer]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("llama3", "leaves out a tool call of message 1"),
        ("gemma4", "does not keep a tool's answer apart"),
        ("gemma", "refuses the conversation: Conversation roles must alternate"),
    ],
)
def test_tool_calls_that_a_template_cannot_show_are_refused(name: str, reason: str) -> None:
    assert reason in refusal(stock(name), CALLED)


def test_white_space_around_an_answer_is_kept_where_the_template_keeps_it() -> None:
    padded = [USER, {"role": "assistant", "content": "\n Well. \n"}]
    assert trained(CHATML, padded) == ["\n Well. \n<|im_end|>"]
    assert trained(stock("llama3"), padded) == ["Well.<|eot_id|>"]


def test_only_answers_of_weight_1_are_trained() -> None:
    messages = [PLAIN[0], PLAIN[1] | {"weight": 0}, *PLAIN[2:]]
    assert trained(CHATML, messages) == ["It is 42.<|im_end|>"]


@pytest.mark.parametrize("content", ["It is 42.", "user", "<|im_start", "\n", "assistant\n", "</think>", "🙂 é"])
def test_an_answer_is_found_even_if_it_looks_like_something_else(content: str) -> None:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": content + "."}] * 2
    assert trained(CHATML, messages) == [f"{content}.<|im_end|>"] * 2


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<bos>"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_special_token_in_a_message_is_refused(token: str, place: int) -> None:
    messages = [dict(message) for message in PLAIN]
    messages[place]["content"] += f" {token} "
    assert f"the special token '{token}' stands in a message" in refusal(CHATML, messages)


def test_what_a_template_says_of_a_conversation_is_told_in_its_own_words_alone() -> None:
    raising = "{% if 'secret' in messages[0].content %}{{ raise_exception(WORDS) }}{% endif %}" + CHATML
    messages = [{"role": "user", "content": "a secret"}, PLAIN[1]]
    own, others = (raising.replace("WORDS", words) for words in ("'No, no!'", "'No ' + messages[0].content"))
    assert refusal(own, messages) == "the chat template refuses the conversation: No, no!"
    assert refusal(others, messages) == "the chat template refuses the conversation: TemplateError"


def test_a_noncharacter_in_a_message_is_refused() -> None:
    assert "noncharacter" in refusal(CHATML, [USER, {"role": "assistant", "content": "a\ufdd0b"}])


def test_a_date_does_not_depend_on_the_day() -> None:
    template = "{{- '<|im_start|>' + strftime_now('%d %b %Y') + strftime_now('|%Y-%m-%d|') }}" + CHATML
    tokenizer = stock_tokenizer(template)
    ids = encoded(tokenizer, PLAIN).input_ids.tolist()
    text = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
    assert text.startswith("<|im_start|>26 Jul 2024|2024-07-26|<|im_start|>user\nHi there")


def test_nothing_is_added_to_what_the_template_writes() -> None:
    with_bos = make_tokenizer("{{ bos_token }}" + CHATML, writes_bos=True)
    without = make_tokenizer(CHATML, writes_bos=True)
    bos = with_bos.bos_token_id
    assert encoded(with_bos, PLAIN).input_ids.tolist().count(bos) == 1
    assert encoded(without, PLAIN).input_ids.tolist().count(bos) == 0
    assert encoded(with_bos, PLAIN).labels[0] == -100


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template.*set spec.model.chatTemplate"),
        (
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
            "ends answers with no special token",
        ),
        (
            "{% for m in messages %}{{ m.content|reverse + '<|im_end|>' }}{% endfor %}",
            "ends answers with no special token",
        ),
        ("{{ messages[-1].content + '<|im_end|>' }}", "leaves an answer out"),
        ("{{ raise_exception('no chats here') }}", "no chats here"),
        ("{{ 1 + 'a' }}", "refuses the conversation"),
        ("{% for m in messages %}", "refuses the conversation.*endfor"),
    ],
)
def test_a_template_that_cannot_be_trained_on_is_refused_at_once(template: str | None, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as refused:
        Encoder(make_tokenizer(template), [Format.MESSAGES])
    assert "spec.model.chatTemplate" in str(refused.value)


def test_a_template_is_not_needed_for_text() -> None:
    Encoder(make_tokenizer(None), [Format.TEXT, Format.PROMPT_COMPLETION, Format.ALPACA])
