"""The held-out records that models are compared on, and the training records that a prompt shows as examples.

Both are drawn on one rank and handed to the others. Every record is tokenised by the encoder of the training data, so
that what a model is asked is what it was trained to answer: a prompt is all tokens before an answer's first one.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from finetune_trainer.data import IGNORED, DatasetIndex, Encoder
from finetune_trainer.data.encode import Document
from finetune_trainer.data.examples import BadRecord, Chat, Completion, Example, Text
from finetune_trainer.data.formats import convert
from finetune_trainer.data.order import EpochOrder, Order, SequentialOrder
from finetune_trainer.data.reader import RawRecord, RecordReader
from finetune_trainer.data.rows import RecordId

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BETWEEN = "\n\n"
"""What stands between two examples of prompt and completion, and ends an answer after such examples."""

CANDIDATES = 8
"""Training records that are looked at for each example of a prompt: some are too long, some have no answer."""


@dataclass(frozen=True)
class Question:
    """A held-out record: what it is made of, the ids before its answer, and the answer's text.

    `document`: the record up to the end of its last answer, of which only that answer is predicted.
    `answer`: its text; None for a text, which has none to generate. `stop`: a text that ends a generated answer, None
    where only the turn's end does.
    """

    record: RecordId
    example: Example
    document: Document
    answer: str | None
    stop: str | None = None

    @property
    def prompt(self) -> list[int]:
        """Ids to generate from; empty for a text."""
        if self.answer is None:
            return []
        first = int(np.flatnonzero(self.document.labels != IGNORED)[0])
        return [int(token) for token in self.document.input_ids[:first]]


class Questions:
    """Draws records of one set and makes questions of them, with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, index: DatasetIndex) -> None:
        """`index`: of the set; DataError where the tokenizer does not fit its formats."""
        self._index = index
        self._encoder = Encoder(tokenizer, index.rendered_formats)

    def spread(self, count: int) -> list[Question]:
        """At most `count` records, spread evenly over the set; those that cannot be used are left out."""
        order = SequentialOrder(self._index.table)
        total = order.records
        wanted = {number * total // min(count, total) for number in range(min(count, total))}
        with closing(_read(self._index, order)) as records:
            return self._made([record for place, record in enumerate(records) if place in wanted])

    def drawn(self, seed: int, count: int) -> list[Question]:
        """At most `count` records with answers, the first ones of an epoch in the order that `seed` gives it."""
        drawn: list[Question] = []
        most = count * CANDIDATES
        with closing(_read(self._index, EpochOrder(self._index.table, seed, 0))) as records:
            for record in islice(records, most):
                drawn += [one for one in self._made([record]) if one.answer is not None]
                if len(drawn) >= count:
                    break
        return drawn[:count]

    def with_shots(self, question: Question, shots: Sequence[Question], context: int) -> tuple[Question, int]:
        """The question behind as many of `shots` as fit into `context` tokens with its answer, and how many these are.

        Examples are taken in their order, those left out that do not fit or are of another kind than the question.
        """
        shown: list[Question] = []
        found = question
        for shot in shots:
            example = _behind([*shown, shot], question.example)
            longer = None if example is None else self._document(example)
            if isinstance(longer, Document) and len(longer.input_ids) <= context:
                shown.append(shot)
                stop = BETWEEN if isinstance(question.example, Completion) and not _holds_stop(question) else None
                found = replace(question, document=longer, stop=stop)
        return found, len(shown)

    def _made(self, records: Sequence[RawRecord]) -> list[Question]:
        made = [self._question(record) for record in records]
        return [question for question in made if question is not None]

    def _question(self, record: RawRecord) -> Question | None:
        source = self._index.sources[record.source]
        try:
            example, answer = _asked(convert(record.raw, source.format, source.columns))
        except BadRecord:
            return None
        document = self._document(example)
        return Question(record.id, example, document, answer) if isinstance(document, Document) else None

    def _document(self, example: Example) -> Document | BadRecord:
        return self._encoder.encode([example])[0]


def _holds_stop(question: Question) -> bool:
    return question.answer is not None and BETWEEN in question.answer.strip()


def _asked(example: Example) -> tuple[Example, str | None]:
    """The example up to its last trained answer, and that answer; raises BadRecord for one without."""
    if isinstance(example, Chat):
        said = [i for i in example.trained if "tool_calls" not in example.messages[i]]
        if not said:
            raise BadRecord("every trained answer calls a tool")
        last = said[-1]
        return Chat(example.messages[: last + 1], (last,), example.tools), example.messages[last]["content"]
    if isinstance(example, Completion):
        return example, example.completion if example.prompt.strip() else None
    if isinstance(example, Text):
        return example, None
    raise BadRecord("no text that a language model continues")


def _behind(shots: Sequence[Question], example: Example) -> Example | None:
    """The example with others before it; None where they are of another kind."""
    others = [shot.example for shot in shots]
    if isinstance(example, Completion):
        before = [f"{one.prompt}{one.completion}{BETWEEN}" for one in others if isinstance(one, Completion)]
        return replace(example, prompt="".join(before) + example.prompt) if len(before) == len(others) else None
    if not isinstance(example, Chat) or not all(isinstance(one, Chat) for one in others):
        return None
    turns = [_turns(one) for one in others if isinstance(one, Chat)]
    if any("tool_calls" in message or message["role"] == "tool" for message in chain.from_iterable(turns)):
        return None
    own = _turns(example)
    head = example.messages[: len(example.messages) - len(own)]
    messages = [*head, *chain.from_iterable(turns), *own]
    return Chat(messages, (len(messages) - 1,), example.tools)


def _turns(chat: Chat) -> list[dict[str, object]]:
    """The messages without the instructions at the beginning."""
    first = next((i for i, m in enumerate(chat.messages) if m["role"] not in ("system", "developer")), 0)
    return list(chat.messages[first:])


def _read(index: DatasetIndex, order: Order) -> Generator[RawRecord]:
    """The records of a set in an order."""
    with RecordReader(index) as reader:
        for block in order.blocks():
            records = reader.read(block)
            shuffle = order.shuffle(block) if isinstance(order, EpochOrder) else range(len(records))
            yield from (records[i] for i in shuffle)
