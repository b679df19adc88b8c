"""Chat templates: a conversation to the text that the model sees."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from jinja2 import TemplateError, TemplateSyntaxError

from finetune_trainer.data.examples import BadRecord, Chat
from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Llama 3 and gpt-oss templates write today's date. What a record becomes must not depend on the day it is read, so
# the date is the one that Llama 3 templates fall back to.
FIXED_DATE = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24", "%A": "Friday", "%a": "Fri"}
FIXED_TIME = {"%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM", "%j": "208"}
_REPLACED = "".join(f" | replace('{code}', '{text}')" for code, text in (FIXED_DATE | FIXED_TIME).items())
FIXED_CLOCK = f"{{%- macro strftime_now(format) -%}}{{{{ format{_REPLACED} }}}}{{%- endmacro -%}}"


class ChatTemplate:
    """The chat template of a tokenizer, and the tokens that it may write. Raises DataError for a tokenizer without one.

    `added`: a pattern of all added tokens, `added_tokens` themselves.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "the model's tokenizer has no chat template, which conversations need: set spec.model.chatTemplate, or "
                "use the format Text, or PromptCompletion with texts"
            )
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        self._special = re.compile(any_of(special))
        self.added_tokens = special | {token.content for token in added}
        self.added = re.compile(any_of(self.added_tokens))

    def check(self, chat: Chat) -> None:
        """Raise BadRecord if a string of the conversation would be read as a special token."""
        for value in _strings([chat.messages, chat.tools]):
            found = self._special.search(value)
            if found:
                raise BadRecord(f"the special token {found.group()!r} stands in a message as text")

    def apply(self, chat: Chat, count: int, *, prompt: bool = False) -> str:
        """The first `count` messages as text, with what makes the model answer if `prompt`; BadRecord if refused."""
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
            raise BadRecord(f"the chat template refuses the conversation: {_words(error, template)}") from error
        return str(text)


def _words(error: Exception, template: str) -> str:
    """What an error says if it says it in the template's own words, else its kind: others may be the record's."""
    text = str(error)
    return text if isinstance(error, TemplateSyntaxError) or (text and text in template) else type(error).__name__


def any_of(texts: Iterable[str]) -> str:
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
