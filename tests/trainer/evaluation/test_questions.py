"""Which records are compared, what models are asked, and what stands before a question as an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.evaluation.questions import Question, Questions
from small_data import conversation, index_of, make_tokenizer, source, write_records

SYSTEM = {"role": "system", "content": "be brief"}


def questions(path: Path, records: list[Any]) -> Questions:
    return Questions(make_tokenizer(), index_of(source(write_records(path / "records.jsonl", records))))


def text(question: Question) -> str:
    return str(make_tokenizer().decode(question.document.input_ids.tolist()))


def prompt(question: Question) -> str:
    return str(make_tokenizer().decode(question.prompt))


def test_a_conversation_is_asked_up_to_its_last_answer(tmp_path: Path) -> None:
    first, second = conversation(1)["messages"], conversation(2)["messages"]
    (asked,) = questions(tmp_path, [{"messages": [SYSTEM, *first, *second, first[0]]}]).spread(5)
    assert asked.answer == second[1]["content"]
    rendered = make_tokenizer().apply_chat_template(
        [SYSTEM, *first, second[0]], tokenize=False, add_generation_prompt=True
    )
    assert prompt(asked) == rendered
    assert text(asked) == f"{rendered}{second[1]['content']}<|im_end|>\n"
    assert asked.record.endswith("records.jsonl#1")


def test_a_prompt_ends_where_its_completion_begins_and_a_text_has_none(tmp_path: Path) -> None:
    (asked,) = questions(tmp_path, [{"prompt": "one and two make", "completion": " three"}]).spread(5)
    assert (prompt(asked), asked.answer) == ("one and two make", " three")
    (tmp_path / "texts").mkdir()
    (plain,) = questions(tmp_path / "texts", [{"text": "all of it is text"}]).spread(5)
    assert (plain.prompt, plain.answer) == ([], None)


def test_records_are_spread_over_the_whole_set_and_bad_ones_left_out(tmp_path: Path) -> None:
    records = [conversation(number) for number in range(100)]
    records[20] = {"messages": []}
    asked = questions(tmp_path, records).spread(10)
    numbers = [int(one.record.rpartition("#")[2]) - 1 for one in asked]
    assert numbers == [0, 10, 30, 40, 50, 60, 70, 80, 90]
    assert len(questions(tmp_path, records).spread(1000)) == 99


def test_examples_are_drawn_by_the_seed(tmp_path: Path) -> None:
    maker = questions(tmp_path, [conversation(number) for number in range(50)])
    drawn = [[one.record for one in maker.drawn(seed, 4)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(records)) == 4 for records in drawn)


def test_examples_stand_behind_the_instructions_and_before_the_question(tmp_path: Path) -> None:
    one, two, three = (conversation(number)["messages"] for number in (1, 2, 3))
    maker = questions(tmp_path, [{"messages": [SYSTEM, *messages]} for messages in (one, two, three)])
    asked, *shots = maker.spread(3)
    shown, count = maker.with_shots(asked, shots, 10_000)
    expected = make_tokenizer().apply_chat_template(
        [SYSTEM, *two, *three, one[0]], tokenize=False, add_generation_prompt=True
    )
    assert (prompt(shown), count) == (expected, 2)
    assert shown.answer == asked.answer
    kept = shown.document.input_ids[shown.document.labels != -100]
    assert kept.tolist() == asked.document.input_ids[asked.document.labels != -100].tolist()


def test_completions_stand_before_the_question_as_texts_and_end_its_answer(tmp_path: Path) -> None:
    records = [{"prompt": f"{number} is", "completion": f" number {number}"} for number in range(3)]
    maker = questions(tmp_path, records)
    asked, *shots = maker.spread(3)
    shown, _ = maker.with_shots(asked, shots, 10_000)
    assert prompt(shown) == "1 is number 1\n\n2 is number 2\n\n0 is"
    assert shown.stop == "\n\n"


@pytest.mark.parametrize("most", [0, 1, 3])
def test_as_many_examples_are_shown_as_fit(tmp_path: Path, most: int) -> None:
    maker = questions(tmp_path, [conversation(1)] * 9)
    asked, *shots = maker.spread(9)
    size = len(asked.document.input_ids)
    shown, count = maker.with_shots(asked, shots, (most + 1) * size)
    assert count == most
    assert len(shown.document.input_ids) <= (most + 1) * size


def test_an_example_of_another_kind_or_with_tools_is_not_shown(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {}}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    tool = {"role": "tool", "content": "3"}
    user, answer = conversation(1)["messages"]
    maker = questions(tmp_path, [conversation(2), {"messages": [user, called, tool, answer]}])
    found = maker.spread(2)
    assert maker.with_shots(found[0], found[1:], 10_000)[1] == 0
