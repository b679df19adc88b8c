"""Chat templates: a conversation to the text that the model sees, and where in it the trained answers are.

Templates change what they are given: they trim, drop the reasoning of earlier turns, move the system prompt. So nothing
is searched for in the text. The conversation is rendered once as it is and once with noncharacters around every answer;
the two must agree but for these, which then stand where the answers are. An answer is trained from where the generation
prompt ends, which is where a server lets the model begin, to the token that ends its turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from finetune_trainer.data.examples import BadRecord, Chat
from finetune_trainer.errors import DataError

# Noncharacters (Unicode 16, 23.7): valid in strings, never part of exchanged text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
MARKERS = re.compile(f"[{OPEN}{CLOSE}]")
END_OF_REASONING = "</think>"

# Llama 3 and gpt-oss templates write today's date. What a record becomes must not depend on the day it is read, so
# the date is the one that Llama 3 templates fall back to.
FIXED_DATE = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24", "%A": "Friday", "%a": "Fri"}
FIXED_TIME = {"%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM", "%j": "208"}
_REPLACED = "".join(f" | replace('{code}', '{text}')" for code, text in (FIXED_DATE | FIXED_TIME).items())
FIXED_CLOCK = f"{{%- macro strftime_now(format) -%}}{{{{ format{_REPLACED} }}}}{{%- endmacro -%}}"

Message = dict[str, Any]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rendering:
    """A text and its trained character spans, ascending; `whole`: no beginning or end of text is to be added."""

    text: str
    spans: tuple[Span, ...]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    """Where an answer's content stands in the text; `start` is unknown where the template cut off its beginning."""

    start: int | None
    end: int


_PROBE = Chat(
    messages=[
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Italy?"},
        {"role": "assistant", "content": "Rome."},
    ],
    trained=(1, 3),
)
_CALL = {"type": "function", "id": "call12345", "function": {"name": "capital_of", "arguments": {"country": "France"}}}
_CALL_PROBE: list[Message] = [_PROBE.messages[0], {"role": "assistant", "content": "", "tool_calls": [_CALL]}]


class ChatTemplate:
    """The chat template of a tokenizer, proved on a sample conversation when it is made.

    Raises DataError for a tokenizer without a template, and for a template whose answers cannot be told apart or end
    with no special token: a model trained on it would never stop.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "the model's tokenizer has no chat template, which conversations need: set spec.model.chatTemplate, or "
                "use the format PromptCompletion or Text"
            )
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        self._control = re.compile(_any_of(special))
        self._added = re.compile(_any_of(special | {token.content for token in added}))
        try:
            ends = _any_of(self._find_ends(special | {token.content for token in added}))
            self._end, self._end_behind = re.compile(ends), re.compile(rf"\s*(?:{ends})")
            self.sample = self.render(_PROBE)
        except BadRecord as error:
            raise DataError(f"spec.model.chatTemplate: {error}; name a template that fits training") from error

    def render(self, chat: Chat) -> Rendering:
        """The conversation's text and its trained spans. Raises BadRecord if the template refuses it or hides an
        answer.
        """
        for value in _strings([chat.messages, chat.tools]):
            self._check_control(value)
        text = self._apply(chat, len(chat.messages))
        answers = self._find_answers(chat, text)
        spans = tuple(self._span(chat, text, i, answers.get(i)) for i in chat.trained)
        if any("tool_calls" in message for message in chat.messages):
            self._check_tool_calls(chat, text, spans)
        return Rendering(text, spans, whole=True)

    def _check_control(self, value: str) -> None:
        found = self._control.search(value)
        if found:
            raise BadRecord(f"the control token {found.group()!r} stands in a message as text")
        if MARKERS.search(value):
            raise BadRecord("a Unicode noncharacter stands in a message")

    def _apply(self, chat: Chat, count: int, *, prompt: bool = False) -> str:
        """The first `count` messages as text, with what makes the model answer if `prompt`."""
        template = self._tokenizer.get_chat_template(None, chat.tools)
        if "strftime_now" in template:
            template = FIXED_CLOCK + template
        try:
            text = self._tokenizer.apply_chat_template(
                chat.messages[:count],
                tools=list(chat.tools) if chat.tools else None,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise BadRecord(f"the chat template refuses the conversation: {error}") from error
        return str(text)

    def _find_answers(self, chat: Chat, text: str) -> dict[int, _Answer]:
        """Where the content of each assistant message stands; a message of tool calls alone has none."""
        answers = [i for i, m in enumerate(chat.messages) if m["role"] == "assistant" and m["content"].strip()]
        places = self._find_places(chat, text, answers)
        if places is None:
            raise BadRecord("the chat template leaves an answer out, or changes it so that it cannot be found")
        return dict(zip(answers, places, strict=True))

    def _find_places(self, chat: Chat, text: str, numbers: Sequence[int]) -> list[_Answer] | None:
        """Where the contents of some messages stand in the text; None if that cannot be found out."""
        for opened in (True, False):  # a template that looks at how a content begins is not to see a marker there
            messages = [_mark(m, opened=opened) if i in numbers else m for i, m in enumerate(chat.messages)]
            shown = self._apply(replace(chat, messages=messages), len(messages))
            if MARKERS.sub("", shown) == text and shown.count(CLOSE) == len(numbers):
                return list(_places(shown))
        return None

    def _span(self, chat: Chat, text: str, i: int, answer: _Answer | None) -> Span:
        start = self._start(chat, text, i, answer)
        if "tool_calls" in chat.messages[i] or answer is None:
            end = self._end.search(text, answer.end if answer else start)
        else:
            end = self._end_behind.match(text, answer.end)
        if end is None:
            raise BadRecord(f"the turn of message {i} does not end with a token that ends turns")
        return start, end.end()

    def _start(self, chat: Chat, text: str, i: int, answer: _Answer | None) -> int:
        """Behind the generation prompt if the text goes on from it, else where the content begins."""
        prompt = ""
        if i:
            with suppress(BadRecord):  # some templates do not prompt for a second answer in a row
                prompt = self._apply(chat, i, prompt=True)
        limit = len(text) if answer is None else answer.end if answer.start is None else answer.start
        if prompt and len(prompt) <= limit and text.startswith(prompt):
            return len(prompt)
        if answer is not None and answer.start is not None:
            return answer.start
        return self._fork(chat, text, i, prompt)

    def _fork(self, chat: Chat, text: str, i: int, prompt: str) -> int:
        """Where the text leaves a generation prompt that goes on otherwise, for instance with an opened reasoning."""
        history = self._apply(chat, i) if i else ""
        fork = next((k for k, pair in enumerate(zip(prompt, text, strict=False)) if pair[0] != pair[1]), 0)
        fork = next((m.start() for m in self._added.finditer(text) if m.start() < fork < m.end()), fork)
        if not history or not prompt.startswith(history) or fork <= len(history):
            raise BadRecord(f"it cannot be told where the answer in message {i} begins")
        return fork

    def _check_tool_calls(self, chat: Chat, text: str, spans: Sequence[Span]) -> None:
        """Every trained call must be in its span, and no tool's answer in any."""
        for i, (start, end) in zip(chat.trained, spans, strict=True):
            names = [call["function"]["name"] for call in chat.messages[i].get("tool_calls", [])]
            if any(name not in text[start:end] for name in names):
                raise BadRecord(f"the chat template leaves out a tool call of message {i}")
        tools = [i for i, m in enumerate(chat.messages) if m["role"] == "tool" and m["content"].strip()]
        places = self._find_places(chat, text, tools)
        if places is None or any(start < place.end <= end for place in places for start, end in spans):
            raise BadRecord("the chat template does not keep a tool's answer apart from the assistant's turn")

    def _find_ends(self, tokens: Iterable[str]) -> set[str]:
        """The tokens that end the turns of the sample conversations."""
        text = self._apply(_PROBE, len(_PROBE.messages))
        end = re.compile(rf"\s*({_any_of(tokens)})")
        found = [end.match(text, answer.end) for answer in self._find_answers(_PROBE, text).values()]
        ends = {match.group(1) for match in found if match}
        if None in found:
            raise BadRecord("it ends answers with no special token, so that a model trained on it would never stop")
        with suppress(BadRecord):  # not every template knows tool calls
            call = self._apply(Chat(_CALL_PROBE, (1,)), len(_CALL_PROBE)).rstrip()
            ends |= {token for token in tokens if call.endswith(token)}
        return ends


def _any_of(texts: Iterable[str]) -> str:
    """A pattern that matches any of `texts`, the longest first; nothing if there are none."""
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True) if text.strip()) or r"(?!)"


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _mark(message: Message, *, opened: bool) -> Message:
    """The message with markers around its content, inside the white space at its ends, which templates may trim.

    A second opening marker stands behind the reasoning, which templates may drop.
    """
    content: str = message["content"]
    core = content.strip()
    head, separator, answer = core.rpartition(END_OF_REASONING)
    gap = answer[: len(answer) - len(answer.lstrip())]
    behind = f"{head}{separator}{gap}{OPEN}{answer[len(gap) :]}" if separator else core
    before = content[: len(content) - len(content.lstrip())]
    after = content[len(content.rstrip()) :]
    return message | {"content": f"{before}{OPEN if opened else ''}{behind}{CLOSE}{after}"}


def _places(shown: str) -> Iterator[_Answer]:
    """The answers between the markers of a text, in positions of the text without them."""
    start: int | None = None
    for number, marker in enumerate(MARKERS.finditer(shown)):
        position = marker.start() - number
        if marker.group() == CLOSE:
            yield _Answer(start, position)
            start = None
        elif start is None:
            start = position
