"""Texts and conversations with a label, or several, or a number: the records of classifiers.

Sources: the columns `text` and `label` of text classification sets on the Hugging Face hub; OpenAI's `messages`.
"""

from __future__ import annotations

from typing import Any

from finetune_trainer.data.conversations import check_tools, read_messages
from finetune_trainer.data.examples import BadRecord, Labelled, Text
from finetune_trainer.data.preferences import string


def from_labelled(values: dict[str, Any]) -> Labelled:
    """The text or the conversation of a record with what is given for it, as it stands there; raises BadRecord."""
    text, messages = values["text"], values["messages"]
    if text is not None and messages is not None:
        raise BadRecord("both 'text' and 'messages': name the one that is meant in columns")
    if messages is not None:
        return Labelled(read_messages(messages, check_tools(values["tools"])), values["label"])
    if text is None:
        raise BadRecord("neither 'text' nor 'messages' (format Classification)")
    return Labelled(Text(string(values, "text")), values["label"])
