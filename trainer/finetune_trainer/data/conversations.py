"""Conversations, as messages with roles or in ShareGPT's spelling, to chats."""

from __future__ import annotations

import json
from typing import Any

from finetune_trainer.data.examples import BadRecord, Chat

ROLES = ("system", "developer", "user", "assistant", "tool")
# What chat templates read of a message; anything else (ids, times, scores) never reaches them.
FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")
MOST_WEIGHT = 100
SHARE_GPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}


def from_messages(messages: object, tools: list[dict[str, Any]] | None = None) -> Chat:
    """A chat whose assistant messages are trained unless their `weight` is 0; raises BadRecord.

    A weight is a number from 0 to 100, by which the losses of a message's tokens are multiplied.
    """
    chat = read_messages(messages, tools)
    assert isinstance(messages, list)
    checked = chat.messages
    answers = [i for i, message in enumerate(checked) if message["role"] == "assistant"]
    if not answers:
        raise BadRecord("no assistant message to train on")
    weights = {i: _weight(message, i) for i, message in enumerate(messages) if message.get("weight") is not None}
    trained = tuple(i for i in answers if weights.get(i, 1.0))
    if not trained:
        raise BadRecord("every assistant message has weight 0: nothing to train on")
    return Chat(checked, trained, tools, weights)


def read_messages(messages: object, tools: list[dict[str, Any]] | None = None) -> Chat:
    """A chat of which nothing is trained, to be read only; raises BadRecord."""
    if not isinstance(messages, list) or not messages:
        raise BadRecord("the messages are not a list of at least one message")
    return Chat([_message(message, i) for i, message in enumerate(messages)], (), tools)


def from_share_gpt(values: dict[str, Any]) -> Chat:
    """A chat of ShareGPT's `conversations` (`from`, `value`), with an optional `system` text; raises BadRecord."""
    turns = values["conversations"]
    if not isinstance(turns, list):
        raise BadRecord("'conversations' is not a list of turns")
    messages = [_share_gpt_turn(turn, i) for i, turn in enumerate(turns)]
    if values["system"]:
        messages.insert(0, {"role": "system", "content": values["system"]})
    return from_messages(messages, check_tools(values["tools"]))


def check_tools(tools: object) -> list[dict[str, Any]] | None:
    """Tool definitions, given as a list or as JSON text of one; raises BadRecord for anything else."""
    if tools is None or tools in ("", []):
        return None
    parsed = _json(tools, "'tools'") if isinstance(tools, str) else tools
    if not isinstance(parsed, list) or not all(isinstance(tool, dict) for tool in parsed):
        raise BadRecord("'tools' is not a list of objects")
    return parsed


def _message(message: object, i: int) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise BadRecord(f"message {i} is a {type(message).__name__} instead of an object")
    kept = {name: message[name] for name in FIELDS if message.get(name) is not None}
    role = kept.get("role")
    if role not in ROLES:
        raise BadRecord(f"message {i} has the unknown role {str(role)[:32]!r}: write one of {', '.join(ROLES)}")
    calls = kept.get("tool_calls")
    if calls:
        kept["tool_calls"] = _tool_calls(calls, role, i)
        kept.setdefault("content", "")
    else:
        kept.pop("tool_calls", None)
    _check_content(kept, i)
    return kept


def _check_content(message: dict[str, Any], i: int) -> None:
    content = message.get("content")
    if not isinstance(content, str):
        raise BadRecord(f"the content of message {i} is a {type(content).__name__} instead of a string")
    if message["role"] == "assistant" and not content.strip() and "tool_calls" not in message:
        raise BadRecord(f"the answer in message {i} is empty")
    for name in FIELDS[2:]:
        if name != "tool_calls" and not isinstance(message.get(name, ""), str):
            raise BadRecord(f"{name!r} of message {i} is not a string")


def _tool_calls(calls: object, role: str, i: int) -> list[dict[str, Any]]:
    """Calls with their arguments as objects, as templates expect them; OpenAI keeps them as JSON text."""
    if role != "assistant":
        raise BadRecord(f"message {i} has tool calls, but the role {role!r}")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRecord(f"the tool calls of message {i} are not a list of objects")
    return [_tool_call(call, i) for call in calls]


def _tool_call(call: dict[str, Any], i: int) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRecord(f"a tool call of message {i} names no function")
    arguments = function.get("arguments", {})
    parsed = (
        _json(arguments, f"the arguments of a tool call of message {i}") if isinstance(arguments, str) else arguments
    )
    if not isinstance(parsed, dict):
        raise BadRecord(f"the arguments of a tool call of message {i} are not an object")
    function = function | {"arguments": parsed}
    return call | {"function": function} if "function" in call else {"type": "function", "function": function}


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise BadRecord(f"{what} are nested too deeply") from error
    except ValueError as error:
        raise BadRecord(f"{what} are not valid JSON") from error


def _weight(message: dict[str, Any], i: int) -> float:
    weight = message["weight"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= MOST_WEIGHT:
        raise BadRecord(f"the weight of message {i} is no number from 0 to {MOST_WEIGHT}")
    return float(weight)


def _share_gpt_turn(turn: object, i: int) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise BadRecord(f"turn {i} is a {type(turn).__name__} instead of an object")
    sender = turn.get("from")
    if not isinstance(sender, str) or sender not in SHARE_GPT_ROLES:
        known = ", ".join(SHARE_GPT_ROLES)
        raise BadRecord(f"turn {i} is from the unknown {str(sender)[:32]!r}: write one of {known}")
    return {"role": SHARE_GPT_ROLES[sender], "content": turn.get("value"), "weight": turn.get("weight")}
