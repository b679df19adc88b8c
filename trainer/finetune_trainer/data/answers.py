"""Where a conversation's answers are in the text that a chat template makes of it, proved for every record.

Templates change what they are given: they trim, drop the reasoning of earlier turns, move the system prompt. So nothing
is searched for in the text. An answer is trained from where the generation prompt ends, which is where a server lets
the model begin, to the token that ends its turn. Where the text goes on from the generation prompt with the very answer
and its end, that is proof enough. Otherwise the conversation is rendered again with noncharacters around every answer:
the two texts must agree but for these, which then stand where the answers are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.examples import BadRecord, Chat
from finetune_trainer.data.template import ChatTemplate, any_of
from finetune_trainer.errors import DataError
from finetune_trainer.spec.objective import RoleWeights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Noncharacters (Unicode 16, 23.7): valid in strings, never part of exchanged text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
MARKERS = re.compile(f"[{OPEN}{CLOSE}]")
END_OF_REASONING = "</think>"

Message = dict[str, Any]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rendering:
    """A text and its trained character spans, ascending; `whole`: no beginning or end of text is to be added.

    `weights`: of each span, where they are not all 1.
    """

    text: str
    spans: tuple[Span, ...]
    whole: bool = False
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a message's content stands in the text; `start` is unknown where the template cut off its beginning."""

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


class ChatRenderer:
    """Renders conversations with a tokenizer's chat template and finds their answers; proved on a sample when made.

    Raises DataError for a tokenizer without a template, and for a template whose answers cannot be told apart or end
    with no special token: a model trained on it would never stop.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._template = ChatTemplate(tokenizer)
        try:
            ends = any_of(self._find_ends())
            self._end, self._end_behind = re.compile(ends), re.compile(rf"\s*(?:{ends})")
            self.sample = self.render(_PROBE)
        except BadRecord as error:
            raise DataError(f"spec.model.chatTemplate: {error}; name a template that fits training") from error

    def weighted(self, chat: Chat, roles: RoleWeights | None) -> Rendering:
        """The text and the spans of all messages that count, with their weights: those of their roles times their own.

        Raises BadRecord as `render`, or where nothing counts. Of an answer its turn counts, of others their content.
        """
        weights = [_weight_of(chat, i, roles) for i in range(len(chat.messages))]
        others = [i for i, message in enumerate(chat.messages) if message["role"] != "assistant" and weights[i] > 0]
        answers = [i for i in chat.trained if weights[i] > 0]
        if not answers and not others:
            raise BadRecord("every message has weight 0: nothing to train on")
        rendering = self.render(replace(chat, trained=tuple(answers)))
        places = self._find_places(chat, rendering.text, others) if others else []
        if places is None or any(place.start is None for place in places):
            raise BadRecord("the chat template changes a message that is not an answer so that it cannot be found")
        spans = {i: (place.start or 0, place.end) for i, place in zip(others, places, strict=True)}
        spans |= dict(zip(answers, rendering.spans, strict=True))
        order = sorted(spans, key=lambda i: spans[i])
        return replace(rendering, spans=tuple(spans[i] for i in order), weights=tuple(weights[i] for i in order))

    def render(self, chat: Chat) -> Rendering:
        """The text and its trained spans. Raises BadRecord if the template refuses the chat or hides an answer."""
        self._template.check(chat)
        text = self._template.apply(chat, len(chat.messages))
        if MARKERS.search(text):
            raise BadRecord("a Unicode noncharacter stands in a message")
        prompts = [self._prompt(chat, i) for i in chat.trained]
        plain = [self._plain_span(chat.messages[i], text, p) for i, p in zip(chat.trained, prompts, strict=True)]
        spans = tuple(span for span in plain if span)
        if len(spans) < len(plain):
            places = self._find_answers(chat, text)
            spans = tuple(
                self._span(chat, text, i, prompt, places.get(i))
                for i, prompt in zip(chat.trained, prompts, strict=True)
            )
        if any("tool_calls" in message for message in chat.messages):
            self._check_tool_calls(chat, text, spans)
        return Rendering(text, spans, whole=True)

    def _prompt(self, chat: Chat, i: int) -> str:
        """The text after which a server lets the model answer with message `i`; empty where the template has none."""
        if i:
            with suppress(BadRecord):  # some templates do not prompt for a second answer in a row
                return self._template.apply(chat, i, prompt=True)
        return ""

    def _plain_span(self, message: Message, text: str, prompt: str) -> Span | None:
        """The answer's span if the text is the prompt, the answer and its end."""
        if not prompt or not text.startswith(prompt) or "tool_calls" in message:
            return None
        start, content = len(prompt), message["content"]
        shown = next((form for form in (content, content.strip()) if text.startswith(form, start)), None)
        end = None if shown is None else self._end_behind.match(text, start + len(shown))
        return (start, end.end()) if end else None

    def _find_answers(self, chat: Chat, text: str) -> dict[int, _Place]:
        """Where the content of each assistant message stands; a message of tool calls alone has none."""
        answers = [i for i, m in enumerate(chat.messages) if m["role"] == "assistant" and m["content"].strip()]
        places = self._find_places(chat, text, answers)
        if places is None:
            raise BadRecord("the chat template leaves an answer out, or changes it so that it cannot be found")
        return dict(zip(answers, places, strict=True))

    def _find_places(self, chat: Chat, text: str, numbers: Sequence[int]) -> list[_Place] | None:
        """Where the contents of some messages stand in the text; None if that cannot be found out."""
        for opened in (True, False):  # a template that looks at how a content begins is not to see a marker there
            messages = [_mark(m, opened=opened) if i in numbers else m for i, m in enumerate(chat.messages)]
            shown = self._template.apply(replace(chat, messages=messages), len(messages))
            if MARKERS.sub("", shown) == text and shown.count(CLOSE) == len(numbers):
                return list(_places(shown))
        return None

    def _span(self, chat: Chat, text: str, i: int, prompt: str, place: _Place | None) -> Span:
        start = self._start(chat, text, i, prompt, place)
        if "tool_calls" in chat.messages[i] or place is None:
            end = self._end.search(text, place.end if place else start)
        else:
            end = self._end_behind.match(text, place.end)
        if end is None:
            raise BadRecord(f"the turn of message {i} does not end with a token that ends turns")
        return start, end.end()

    def _start(self, chat: Chat, text: str, i: int, prompt: str, place: _Place | None) -> int:
        """Behind the generation prompt if the text goes on from it, else where the content begins."""
        limit = len(text) if place is None else place.end if place.start is None else place.start
        if prompt and len(prompt) <= limit and text.startswith(prompt):
            return len(prompt)
        if place is not None and place.start is not None:
            return place.start
        return self._fork(chat, text, i, prompt)

    def _fork(self, chat: Chat, text: str, i: int, prompt: str) -> int:
        """Where the text leaves a generation prompt that goes on otherwise, for instance with an opened reasoning."""
        history = self._template.apply(chat, i) if i else ""
        fork = next((k for k, pair in enumerate(zip(prompt, text, strict=False)) if pair[0] != pair[1]), 0)
        fork = next((m.start() for m in self._template.added.finditer(text) if m.start() < fork < m.end()), fork)
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

    def _find_ends(self) -> set[str]:
        """What ends the turns of the sample conversations: a special token, or several of them without a gap."""
        tokens = self._template.added_tokens
        text = self._template.apply(_PROBE, len(_PROBE.messages))
        run = re.compile(rf"\s*((?:{any_of(tokens)})+)")
        found = [run.match(text, place.end) for place in self._find_answers(_PROBE, text).values()]
        runs = [self._template.added.findall(match.group(1)) for match in found if match]
        if len(runs) < len(found):
            raise BadRecord("it ends answers with no special token, so that a model trained on it would never stop")
        # What begins the next turn may follow at once, but not after the last turn.
        shared = "".join(same[0] for same in takewhile(lambda pair: len(set(pair)) == 1, zip(*runs, strict=False)))
        ends = {shared} if shared else {tokens_behind[0] for tokens_behind in runs}
        with suppress(BadRecord):  # not every template knows tool calls
            call = self._template.apply(Chat(_CALL_PROBE, (1,)), len(_CALL_PROBE)).rstrip()
            ends |= {token for token in tokens if call.endswith(token)}
        return ends


def _weight_of(chat: Chat, i: int, roles: RoleWeights | None) -> float:
    return chat.weights.get(i, 1.0) * (roles or RoleWeights()).of(chat.messages[i]["role"])


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


def _places(shown: str) -> Iterator[_Place]:
    """The answers between the markers of a text, in positions of the text without them."""
    start: int | None = None
    for number, marker in enumerate(MARKERS.finditer(shown)):
        position = marker.start() - number
        if marker.group() == CLOSE:
            yield _Place(start, position)
            start = None
        elif start is None:
            start = position
