"""Texts and conversations that are classified are what the tokenizer makes of them, with their label beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_trainer.data import Encoder, EvalSet, LabelSet, Row, TrainStream
from finetune_trainer.data.examples import BadRecord, Chat, Judged, Text
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Format, Packing, ProblemType
from small_data import CHATML, index_of, make_tokenizer, settings, source, write_records

NAMES = ("ham", "spam")
SCORED = {"scored": True, "labels": LabelSet(ProblemType.SINGLE_LABEL, NAMES, (1, 1), (1.0, 1.0))}
TEXTS = frozenset({Format.CLASSIFICATION})
CHATS = frozenset({Format.MESSAGES})


def ids_of(encoder: Encoder, example: Any) -> list[int]:
    (document,) = encoder.encode([example])
    assert not isinstance(document, BadRecord), document
    ids: list[int] = document.input_ids.tolist()
    return ids


@pytest.mark.parametrize("writes_bos", [False, True])
@pytest.mark.parametrize("text", ["a", "the model learns ", "<|im_end|>"])
def test_a_text_is_what_the_tokenizer_makes_of_it(text: str, writes_bos: bool) -> None:
    tokenizer = make_tokenizer(writes_bos=writes_bos)
    assert ids_of(Encoder(tokenizer, TEXTS, scored=True), Text(text)) == tokenizer(text)["input_ids"]


def test_a_conversation_is_what_its_template_writes_and_needs_no_answer() -> None:
    tokenizer = make_tokenizer(CHATML)
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "how long?"}]
    expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert ids_of(Encoder(tokenizer, CHATS, scored=True), Judged(Chat(messages, ()), (1.0,))) == expected


def test_a_tokenizer_without_template_or_end_of_text_takes_texts_only() -> None:
    bare = make_tokenizer(None, eos=None)
    assert ids_of(Encoder(bare, TEXTS, scored=True), Text("a"))
    with pytest.raises(DataError, match="no chat template"):
        Encoder(bare, CHATS, scored=True)


@pytest.mark.parametrize("packing", list(Packing))
def test_every_document_of_a_row_has_its_own_label(packing: Packing, tmp_path: Path) -> None:
    records = [{"text": "a" * (n % 7 + 1), "label": NAMES[n % 3 == 0]} for n in range(40)]
    index = index_of(source(write_records(tmp_path / "a.jsonl", records), format_=Format.CLASSIFICATION))
    chosen = settings(packing=packing, max_length=16, **SCORED)
    stream = TrainStream(index, chosen, make_tokenizer())
    rows = [row for batch in stream.batches() for row in batch.rows]
    assert dict(labels(rows)) == {str(n + 1): float(n % 3 == 0) for n in range(40)}
    assert len(labels(rows)) == 40
    assert max(len(row.records) for row in rows) > 1 or packing is Packing.NONE


def labels(rows: list[Row]) -> list[tuple[str, float]]:
    """The number of each record and its target."""
    found: list[tuple[str, float]] = []
    for row in rows:
        assert row.targets is not None
        numbers = [record.rpartition("#")[2] for record in row.records]
        found += zip(numbers, row.targets[:, 0].tolist(), strict=True)
    return found


def test_an_unknown_label_is_a_bad_record_and_a_long_text_keeps_its_label(tmp_path: Path) -> None:
    records = [{"text": "a", "label": "ham"}, {"text": "b", "label": "eggs"}, {"text": "word " * 99, "label": "spam"}]
    index = index_of(source(write_records(tmp_path / "a.jsonl", records), format_=Format.CLASSIFICATION))
    bad: list[Any] = []
    chosen = settings(max_length=16, max_bad_ratio=0.5, packing=Packing.NONE, **SCORED)
    held_out = EvalSet("test", index, chosen, make_tokenizer(), on_bad=bad.append)
    rows = sorted((row for batch in held_out.micro_batches(2) for row in batch), key=len)
    assert labels(rows) == [("1", 0.0), ("3", 1.0)]
    assert [len(row) for row in rows] == [1, 16]
    assert "the unknown label 'eggs': write one of ham, spam" in bad[0].reason
    assert held_out.counters is not None
    assert (held_out.counters.bad, held_out.counters.truncated) == (1, 1)
    assert np.all(rows[1].position_ids == np.arange(16))
