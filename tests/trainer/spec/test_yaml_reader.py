"""YAML 1.2's core schema, strictly: what scalars mean, what is refused and where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import SpecError
from finetune_trainer.spec import load_job, parse_job
from finetune_trainer.spec.yaml_reader import MAX_CHARACTERS, MAX_NODES, YamlProblem, read_yaml

SCALARS: dict[str, Any] = {
    "2e-4": 2e-4,
    "2.0e-4": 2e-4,
    "1E3": 1000.0,
    ".5": 0.5,
    "5.": 5.0,
    "+7": 7,
    "-0": 0,
    "010": 10,
    "0o10": 8,
    "0x1F": 31,
    "1_000": "1_000",
    "0b1": "0b1",
    "12:30": "12:30",
    "2026-11-23": "2026-11-23",
    "on": "on",
    "off": "off",
    "yes": "yes",
    "no": "no",
    "y": "y",
    "true": True,
    "FALSE": False,
    "tRue": "tRue",
    "null": None,
    "~": None,
    "": None,
    ".inf": math.inf,
    "-.INF": -math.inf,
    '"2"': "2",
    "'true'": "true",
    "512Gi": "512Gi",
    "e5": "e5",
    "1e": "1e",
    ".": ".",
}


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_means_what_the_core_schema_says(text: str) -> None:
    value = read_yaml(f"key: {text}\n")["key"]
    assert (value, type(value)) == (SCALARS[text], type(SCALARS[text]))


def test_not_a_number_is_one() -> None:
    assert math.isnan(read_yaml("key: .nan")["key"])


def test_block_texts_keep_their_lines() -> None:
    assert read_yaml("key: |\n  {{ a }}\n  b\n") == {"key": "{{ a }}\nb\n"}


def test_json_is_read_as_well() -> None:
    assert read_yaml('{"a": [1, 2.5, "x", null, {"b": true}]}') == {"a": [1, 2.5, "x", None, {"b": True}]}


def test_a_character_written_as_two_escapes_is_one() -> None:
    assert read_yaml('{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_an_alias_stands_for_a_copy_of_its_anchor() -> None:
    assert read_yaml("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


REFUSED = {
    "duplicate key": ("a: 1\nb: {c: 1,\n  c: 2}\n", "line 3, column 3", "first on line 2"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2, column 1", "one manifest per file"),
    "bad indentation": ("a:\n  b: 1\n c: 2\n", "line 3, column 2", "is no valid YAML"),
    "open bracket": ("a: [1, 2\nb: 3\n", "line 2, column 2", "is no valid YAML"),
    "colon in a value": ("a: b: c\n", "line 1, column 5", "is no valid YAML"),
    "tab as indentation": ("a:\n\tb: 1\n", "line 2, column 1", "is no valid YAML"),
    "tag": ("a: !!python/name:os.system x\n", "line 1, column 4", "without it"),
    "tag on a mapping": ("a: !foo {b: 1}\n", "line 1, column 4", "without it"),
    "merge key": ("a: &x {b: 1}\nc:\n  <<: *x\n", "line 3, column 3", "write the fields out"),
    "key that is a list": ("? [a]\n: 1\n", "line 1, column 3", "write a name"),
    "alias without anchor": ("a: *b\n", "line 1, column 4", "write &b earlier"),
    "alias to what holds it": ("a: &x [*x]\n", "line 1, column 8", "write &x earlier"),
    "lone surrogate": ('a: "\\ud800"\n', "line 1, column 4", "lone surrogate"),
    "lone surrogate in a key": ('"\\ud800": 1\n', "line 1, column 1", "lone surrogate"),
    "too deep": ("a: " + "[" * 40 + "]" * 40, "line 1, column 36", "at most 32 levels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_refused_with_its_place(case: str) -> None:
    text, place, advice = REFUSED[case]
    with pytest.raises(YamlProblem) as refusal:
        read_yaml(text)
    assert refusal.value.problem.path == place
    assert advice in refusal.value.problem.message


def test_control_characters_are_refused() -> None:
    with pytest.raises(YamlProblem, match="no valid YAML"):
        read_yaml("a: \x01\n")


def test_unfolded_aliases_are_bounded() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(YamlProblem, match=f"at most {MAX_NODES} values"):
        read_yaml("\n".join(lines))


def test_the_size_of_a_manifest_is_bounded() -> None:
    with pytest.raises(YamlProblem, match=f"at most {MAX_CHARACTERS} characters"):
        read_yaml("# " + "x" * MAX_CHARACTERS)


def test_a_number_with_thousands_of_digits_is_refused() -> None:
    with pytest.raises(YamlProblem, match="no valid YAML"):
        read_yaml("a: " + "9" * 5000)


def test_an_infinite_rate_is_refused_as_a_number() -> None:
    with pytest.raises(SpecError, match=r"spec.training.learningRate: is no finite number: write a plain number"):
        parse_job("{spec: {training: {learningRate: .inf}}}")


def test_a_syntax_error_reaches_the_user_as_a_spec_error() -> None:
    with pytest.raises(SpecError, match="line 1, column 5: is no valid YAML"):
        parse_job("a: b: c\n")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"job.yaml: cannot be read: name a readable manifest \(got 'No such file"):
        load_job(tmp_path / "job.yaml")


def test_a_file_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(SpecError, match="save the manifest as UTF-8"):
        load_job(path)
