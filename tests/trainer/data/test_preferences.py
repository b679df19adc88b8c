"""Pairs and judged answers: read in every spelling, tokenised with their masks, kept together, stored as tokens."""

from __future__ import annotations

import json
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from finetune_trainer.data import Row, StepBatch, TrainStream, documents_of, order
from finetune_trainer.data.encode import Document, Encoder
from finetune_trainer.data.examples import BadRecord, Completion, Judged, Preference
from finetune_trainer.data.formats import convert
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Format, Overlong, Packing
from finetune_trainer.spec.objective import RoleWeights
from finetune_trainer.store import open_store
from small_data import CHATML, index_of, make_tokenizer, sentence, settings, source, trained_texts, write_records
from stock_templates import stock, stock_tokenizer
from token_forms import publish_all

USER = {"role": "user", "content": "What is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "Green, I believe."}
PAIR = {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}
JUDGED = {"prompt": [USER], "completion": [BLUE], "label": True}


def converted(record: Any, format_: Format = Format.PREFERENCE, **columns: str) -> Any:
    return convert(json.dumps(record).encode(), format_, columns)


def encoded(tokenizer: PreTrainedTokenizerFast, record: Any, format_: Format = Format.PREFERENCE) -> list[Document]:
    rendered = Format.TEXT if isinstance(record.get("prompt"), str) else Format.MESSAGES
    document = Encoder(tokenizer, [rendered]).encode([converted(record, format_)])[0]
    assert isinstance(document, Document), document
    return list(document.parts())


def texts(tokenizer: PreTrainedTokenizerFast, documents: list[Document]) -> list[tuple[str, list[str]]]:
    """The whole text of each document, and what of it is trained."""
    decode = tokenizer.backend_tokenizer.decode
    return [
        (decode(one.input_ids.tolist(), skip_special_tokens=False), trained_texts(tokenizer, one.input_ids, one.labels))
        for one in documents
    ]


@pytest.mark.parametrize(
    ("name", "text", "end"),
    [
        ("llama3_1", "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>", "<|eot_id|>"),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n{}<|im_end|>\n", "<|im_end|>"),
        ("gemma3", "<start_of_turn>model\n{}<end_of_turn>\n", "<end_of_turn>"),
        ("phi3", "<|assistant|>\n{}<|end|>\n<eos>", "<|end|>"),
        ("chatml", "<|im_start|>assistant\n{}<|im_end|>\n", "<|im_end|>"),
    ],
)
def test_both_answers_follow_the_same_prompt_and_alone_are_trained(name: str, text: str, end: str) -> None:
    tokenizer = make_tokenizer() if name == "chatml" else stock_tokenizer(stock(name))
    (chosen, kept), (rejected, kept_too) = texts(tokenizer, encoded(tokenizer, PAIR))
    opened = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert kept == [f"{opened}It is blue.{end}"] and kept_too == [f"{opened}Green, I believe.{end}"]
    prompt = chosen.removesuffix(text.format("It is blue."))
    assert prompt != chosen and rejected == prompt + text.format("Green, I believe.")
    ((judged, kept_judged),) = texts(tokenizer, encoded(tokenizer, JUDGED, Format.UNPAIRED_PREFERENCE))
    assert (judged, kept_judged) == (chosen, kept)


def test_a_prompt_inside_the_answers_is_found_as_trl_finds_it() -> None:
    from trl.data_utils import extract_prompt

    inside: dict[str, Any] = {"chosen": [USER, BLUE], "rejected": [USER, GREEN]}
    assert converted(inside) == converted(PAIR)
    for chosen, rejected in (("The sky is blue.", "The sky is green."), ("I am here", "I am her!")):
        theirs: Any = extract_prompt({"chosen": chosen, "rejected": rejected})
        ours = converted({"chosen": chosen, "rejected": rejected})
        assert ours.chosen == Completion(theirs["prompt"], theirs["chosen"])
        assert ours.rejected == Completion(theirs["prompt"], theirs["rejected"])


def test_columns_margins_and_labels() -> None:
    found = converted({"q": "A", "chosen": "b", "rejected": "c", "by": 2}, prompt="q", margin="by")
    assert found == Preference(Completion("A", "b"), Completion("A", "c"), 2.0)
    for label, target in ((True, 1.0), (False, 0.0), (1, 1.0), (0, 0.0)):
        found = converted({"prompt": "A", "completion": "b", "label": label}, Format.UNPAIRED_PREFERENCE)
        assert found == Judged(Completion("A", "b"), (target,))


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (PAIR | {"rejected": [BLUE]}, "'chosen' and 'rejected' are the same"),
        ({"chosen": [USER, BLUE], "rejected": [USER, BLUE]}, "'chosen' and 'rejected' are the same"),
        ({"chosen": "a b", "rejected": "c d"}, "no 'prompt', and 'chosen' and 'rejected' do not begin alike"),
        ({"chosen": "a", "rejected": [BLUE]}, "neither two texts nor two lists"),
        ({"chosen": "ab", "rejected": "abc"}, "'chosen' is empty"),
        ({"chosen": [USER], "rejected": [USER, GREEN]}, "'chosen' holds no message"),
        (PAIR | {"margin": "big"}, "'margin' is no finite number"),
        ({"prompt": [USER], "chosen": [BLUE]}, "no 'rejected'"),
        ({"prompt": "a", "completion": "b", "label": "yes"}, "'label' is neither true (desirable) nor false"),
        ({"prompt": "a", "completion": "b"}, "no 'label'"),
    ],
)
def test_records_that_cannot_be_used_say_why(record: dict[str, Any], problem: str) -> None:
    format_ = Format.UNPAIRED_PREFERENCE if "completion" in record else Format.PREFERENCE
    with pytest.raises(BadRecord) as error:
        converted(record, format_)
    assert problem in str(error.value)


def test_answers_that_differ_for_people_only_are_the_same() -> None:
    """Gemma's template trims, so that the model would see no difference."""
    record = PAIR | {"rejected": [BLUE | {"content": "It is blue. "}]}
    found = Encoder(stock_tokenizer(stock("gemma3")), [Format.MESSAGES]).encode([converted(record)])[0]
    assert str(found) == "the chosen and the rejected answer are the same"


def pair(number: int) -> dict[str, Any]:
    """A pair whose texts have 3 to 30 words; every third one has a margin."""
    prompt, words = f"{number}: {sentence(number, number % 5 + 1)}", number * 7 % 13 + 1
    record = {"prompt": prompt, "chosen": f" {sentence(number, words)}", "rejected": f" not {sentence(number, words)}"}
    return record | ({"margin": number / 4} if number % 3 == 0 else {})


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "BLOCK_RECORDS", 32)
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)


@pytest.mark.parametrize("packing", list(Packing))
def test_a_pair_stays_in_one_row_and_the_token_form_gives_the_same_rows(
    packing: Packing, small_blocks: None, tmp_path: Path
) -> None:
    records = [pair(number) for number in range(70)]
    records[9] |= {"rejected": records[9]["chosen"]}
    records[20] |= {"rejected": sentence(20, 60)}
    index = index_of(source(write_records(tmp_path / "pairs.jsonl", records), weight=1.5))
    chosen = settings(packing=packing, paired=True, overlong=Overlong.DROP, max_length=80, max_bad_ratio=0.1)
    forms = publish_all(open_store(f"file://{tmp_path}/tokens"), index, chosen)
    raw, stored = (list(TrainStream(index, chosen, make_tokenizer(), forms=some).batches()) for some in ({}, forms))
    assert [contents(batch) for batch in stored] == [contents(batch) for batch in raw]
    rows = [row for batch in raw for row in batch.all_rows]
    assert any(len(row.records) > 2 for row in rows) == (packing is Packing.BEST_FIT)
    for row in rows:
        assert len(row) <= chosen.max_length
        assert row.records[0::2] == row.records[1::2]
        assert row.targets is not None and row.targets.shape == (len(row.records), 1)
        for (one, other), record in zip(list(pairwise(documents_of(row)))[0::2], row.records[0::2], strict=True):
            number = int(record.rpartition("#")[2]) - 1
            same = int(np.argmax(one.labels != -100))
            assert one.input_ids[:same].tolist() == other.input_ids[:same].tolist()
            margin = float(one.targets[0, 0]) if one.targets is not None else None
            assert isnan(margin or 0.0) if number % 3 else margin == number / 4
    counters = raw[-1].state.counters
    assert (counters.bad > 0, counters.dropped > 0) == (True, True)
    assert counters.documents == 2 * sum(len(row.records) for row in rows) / 2


def contents(batch: StepBatch) -> list[Any]:
    return [(*described(row), batch.state) for row in batch.all_rows]


def described(row: Row) -> tuple[Any, ...]:
    extras = [None if values is None else values.tobytes() for values in (row.targets, row.weights)]
    return (row.records, row.input_ids.tobytes(), row.labels.tobytes(), row.position_ids.tobytes(), *extras)


def test_a_record_may_be_of_several_weights_by_role_and_turn() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say a."},
        {"role": "assistant", "content": "a", "weight": 0.25},
        {"role": "user", "content": "Say b.", "weight": 0},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "Say c."},
        {"role": "assistant", "content": "c", "weight": 0},
    ]
    tokenizer = make_tokenizer(CHATML)
    found: list[dict[str, float]] = []
    for weights in (None, RoleWeights(user=0.5, assistant=2.0)):
        encoder = Encoder(tokenizer, [Format.MESSAGES], role_weights=weights)
        document = encoder.encode([converted({"messages": messages}, Format.MESSAGES)])[0]
        assert isinstance(document, Document) and document.weights is not None
        kept = document.labels != -100
        runs = trained_texts(tokenizer, document.input_ids, document.labels)
        starts = np.flatnonzero(kept & ~np.concatenate([[False], kept[:-1]]))
        found.append({text: float(document.weights[start]) for text, start in zip(runs, starts, strict=True)})
    assert found[0] == {"a<|im_end|>": 0.25, "b<|im_end|>": 1.0}
    assert found[1] == {"Say a.": 0.5, "a<|im_end|>": 0.5, "b<|im_end|>": 2.0, "Say c.": 0.5}


def test_weights_survive_packing_and_the_token_form(small_blocks: None, tmp_path: Path) -> None:
    records = [
        {"messages": [USER, BLUE | {"content": sentence(n, n % 9 + 1)} | ({"weight": 0.5} if n % 4 == 0 else {})]}
        for n in range(60)
    ]
    index = index_of(source(write_records(tmp_path / "chats.jsonl", records)))
    chosen = settings()
    forms = publish_all(open_store(f"file://{tmp_path}/tokens"), index, chosen)
    raw, stored = (list(TrainStream(index, chosen, make_tokenizer(), forms=some).batches()) for some in ({}, forms))
    assert [contents(batch) for batch in stored] == [contents(batch) for batch in raw]
    rows = [row for batch in raw for row in batch.all_rows]
    for document in (document for row in rows for document in documents_of(row)):
        number = int(document.records[0].rpartition("#")[2]) - 1
        assert set(document.kept_weights.tolist()) == {0.5 if number % 4 == 0 else 1.0}
    weight = sum(row.kept_weight for row in rows)
    assert 0.7 * sum(row.kept_tokens for row in rows) < weight < sum(row.kept_tokens for row in rows)


def test_data_that_do_not_suit_the_objective_name_what_does(tmp_path: Path) -> None:
    from finetune_trainer.data import check_formats, list_sources
    from finetune_trainer.spec import ObjectiveType, TrainSource

    write_records(tmp_path / "pairs.jsonl", [PAIR])
    listed = list_sources([TrainSource(uri=f"file://{tmp_path}/pairs.jsonl")], "spec.data.train")
    index = index_of(source(tmp_path / "pairs.jsonl"))
    check_formats(listed, index, ObjectiveType.DPO)
    with pytest.raises(
        DataError, match=r"Preference records in .* do not suit objective SFT: .*type: .*DPO, ORPO or Reward"
    ):
        check_formats(listed, index, ObjectiveType.SFT)
