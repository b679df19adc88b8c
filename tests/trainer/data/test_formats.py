from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_trainer.data.examples import BadRecord, Chat, Completion, Text
from finetune_trainer.data.formats import convert, detect_format
from finetune_trainer.spec import Format

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def converted(record: Any, format_: Format, **columns: str) -> Any:
    return convert(json.dumps(record).encode(), format_, columns)


def test_messages_become_a_chat_whose_answers_are_trained() -> None:
    chat = converted({"messages": [USER, ANSWER, USER, ANSWER]}, Format.MESSAGES)
    assert chat == Chat([USER, ANSWER, USER, ANSWER], trained=(1, 3))


def test_answers_of_weight_0_are_not_trained() -> None:
    chat = converted({"messages": [USER, ANSWER | {"weight": 0}, USER, ANSWER | {"weight": 1}]}, Format.MESSAGES)
    assert chat.trained == (3,)
    assert all("weight" not in message for message in chat.messages)


def test_what_templates_do_not_know_never_reaches_them() -> None:
    chat = converted({"messages": [USER | {"timestamp": 1}, ANSWER | {"id": "x", "name": None}]}, Format.MESSAGES)
    assert chat.messages == [USER, ANSWER]


def test_arguments_of_tool_calls_given_as_text_become_objects() -> None:
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    chat = converted({"messages": [USER, calling], "tools": json.dumps([{"type": "function"}])}, Format.MESSAGES)
    assert chat.messages[1]["content"] == ""
    assert chat.messages[1]["tool_calls"][0]["function"] == {"name": "clock", "arguments": {"zone": "UTC"}}
    assert chat.tools == [{"type": "function"}]


def test_share_gpt_turns_become_messages() -> None:
    chat = converted({"conversations": TURNS, "system": "Be brief."}, Format.SHARE_GPT)
    assert chat == Chat([{"role": "system", "content": "Be brief."}, USER, ANSWER], trained=(2,))


def test_alpaca_uses_its_own_prompts() -> None:
    with_input = converted({"instruction": "Add.", "input": "1 2", "output": "3"}, Format.ALPACA)
    assert with_input.prompt.startswith("Below is an instruction that describes a task, paired with an input")
    assert with_input.prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n")
    assert with_input.completion == "3"
    for empty in ("", None):
        without = converted({"instruction": "Wave.", "input": empty, "output": "o/"}, Format.ALPACA)
        assert without.prompt.endswith("the request.\n\n### Instruction:\nWave.\n\n### Response:\n")


def test_braces_in_an_instruction_are_left_alone() -> None:
    example = converted({"instruction": "Fill {input}", "input": "{x}", "output": "y"}, Format.ALPACA)
    assert "### Instruction:\nFill {input}\n\n### Input:\n{x}\n" in example.prompt


def test_prompt_and_completion_are_kept_as_they_are() -> None:
    assert converted({"prompt": " a ", "completion": " b\n"}, Format.PROMPT_COMPLETION) == Completion(" a ", " b\n")


def test_prompt_and_completion_of_messages_are_a_chat_whose_completion_is_trained() -> None:
    chat = converted({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}, Format.PROMPT_COMPLETION)
    assert chat == Chat([USER, ANSWER, USER, ANSWER], trained=(3,))


def test_text_is_kept_as_it_is() -> None:
    assert converted({"text": "  A text.\n"}, Format.TEXT) == Text("  A text.\n")


def test_columns_name_what_the_files_call_it() -> None:
    example = converted(
        {"question": "a", "answer": "b"}, Format.PROMPT_COMPLETION, prompt="question", completion="answer"
    )
    assert example == Completion("a", "b")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({"messages", "prompt", "completion"}, Format.MESSAGES),
        ({"conversations", "id"}, Format.SHARE_GPT),
        ({"instruction", "output", "text"}, Format.ALPACA),
        ({"prompt", "completion"}, Format.PROMPT_COMPLETION),
        ({"text", "meta"}, Format.TEXT),
        ({"prompt", "chosen", "rejected"}, Format.PREFERENCE),
        ({"question", "answer"}, None),
    ],
)
def test_the_format_is_told_by_the_columns(names: set[str], found: Format | None) -> None:
    assert detect_format(names, {}) is found


def test_renamed_columns_tell_the_format() -> None:
    assert detect_format({"body"}, {"text": "body"}) is Format.TEXT


M, S, A, P, T = Format.MESSAGES, Format.SHARE_GPT, Format.ALPACA, Format.PROMPT_COMPLETION, Format.TEXT


@pytest.mark.parametrize(
    ("record", "format_", "reason"),
    [
        ({"text": "x"}, M, "no 'messages'"),
        ({"messages": None}, M, "no 'messages'"),
        ({"messages": []}, M, "not a list of at least one"),
        ({"messages": "Hi"}, M, "not a list"),
        ({"messages": ["Hi"]}, M, "message 0 is a str"),
        ({"messages": [USER]}, M, "no assistant message"),
        ({"messages": [USER, ANSWER | {"weight": 0}]}, M, "weight 0"),
        ({"messages": [USER, ANSWER | {"weight": -0.5}]}, M, "the weight of message 1 is no number from 0 to 100"),
        ({"messages": [USER, ANSWER | {"content": ""}]}, M, "answer in message 1 is empty"),
        ({"messages": [USER, ANSWER | {"content": " \n"}]}, M, "answer in message 1 is empty"),
        ({"messages": [USER, ANSWER | {"content": None}]}, M, "content of message 1 is a NoneType"),
        (
            {"messages": [USER | {"content": [{"type": "text", "text": "Hi"}]}, ANSWER]},
            M,
            "content of message 0 is a list",
        ),
        ({"messages": [{"role": "bot", "content": "Hi"}, ANSWER]}, M, "unknown role 'bot'"),
        ({"messages": [{"content": "Hi"}, ANSWER]}, M, "unknown role 'None'"),
        ({"messages": [USER | {"tool_calls": [CALL]}, ANSWER]}, M, "tool calls, but the role 'user'"),
        ({"messages": [USER, ANSWER | {"tool_calls": [{"function": {}}]}]}, M, "names no function"),
        ({"messages": [USER, ANSWER | {"tool_calls": [{"name": "f", "arguments": "{"}]}]}, M, "not valid JSON"),
        ({"messages": [USER, ANSWER | {"tool_calls": [{"name": "f", "arguments": [1]}]}]}, M, "not an object"),
        ({"messages": [USER, ANSWER], "tools": "{}"}, M, "'tools' is not a list"),
        ({"messages": [USER, ANSWER], "tools": "[" * 100_000}, M, "'tools' are nested too deeply"),
        ({"messages": [USER, ANSWER | {"reasoning_content": 1}]}, M, "'reasoning_content' of message 1"),
        ({"conversations": "Hi"}, S, "not a list of turns"),
        ({"conversations": [{"from": "bing", "value": "Hi"}]}, S, "unknown 'bing'"),
        ({"conversations": TURNS[:1]}, S, "no assistant message"),
        ({"conversations": [TURNS[0], {"from": "gpt", "value": 3}]}, S, "content of message 1 is a int"),
        ({"instruction": "x", "output": ""}, A, "'output' is empty"),
        ({"instruction": 1, "output": "x"}, A, "'instruction' is a int"),
        ({"instruction": "x", "output": "x", "input": {}}, A, "'input' is a dict"),
        ({"instruction": "x", "output": "x", "history": [["a", "b"]]}, A, "'history' is not part"),
        ({"prompt": "x", "completion": " "}, P, "'completion' is empty"),
        ({"prompt": "x", "completion": ["y"]}, P, "'prompt' is a str|'completion' is a list"),
        ({"prompt": [USER], "completion": [USER]}, P, "no assistant message"),
        ({"text": ""}, T, "'text' is empty"),
        ({"text": ["x"]}, T, "'text' is a list"),
        (["x"], T, "a JSON list instead of an object"),
        ("x", T, "a JSON str instead of an object"),
    ],
)
def test_a_record_that_cannot_be_trained_on_says_why(record: Any, format_: Format, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        converted(record, format_)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "x"', "not valid JSON"),
        (b'{"text": "\xff"}', "not valid UTF-8 at byte 10"),
        (b'{"text": ' + b"9" * 5000 + b"}", "beyond what can be read"),
        (b"[" * 100_000, "beyond what can be read"),
        (b"\x00\x01", "not valid JSON"),
    ],
)
def test_a_line_that_is_no_json_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        convert(line, Format.TEXT, {})
