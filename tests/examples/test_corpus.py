"""The demo's data set: real docstrings, the same on every run, with a held-out part that training never sees."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from conversations import conversations
from corpus import MAX_COPIED, Corpus, Size, chats, choose, document, is_held_out, shingles, usable_part
from docstrings import Docstring, read_file, source_files
from sections import parse
from shards import write_shards

SIZE = Size(per_package=400, held_out=60, conversations=500)
PACKAGES = ("rich", "networkx")


@pytest.fixture(scope="module")
def found() -> list[Docstring]:
    return [
        docstring
        for name in PACKAGES
        for module, path in source_files(name)
        for docstring in read_file(name, module, path)
    ]


@pytest.fixture(scope="module")
def corpus(found: list[Docstring]) -> Corpus:
    return choose(found, SIZE)


def test_the_order_in_which_files_are_read_changes_nothing(found: list[Docstring], corpus: Corpus) -> None:
    assert choose(reversed(found), SIZE) == corpus
    assert chats(reversed(corpus.train), SIZE.conversations) == chats(corpus.train, SIZE.conversations)


def test_both_parts_have_their_size_and_come_from_all_packages(corpus: Corpus) -> None:
    assert len(corpus.held_out) == SIZE.held_out
    assert {docstring.package for docstring in corpus.train} == set(PACKAGES)
    assert len(corpus.train) == len(PACKAGES) * SIZE.per_package


def test_no_held_out_text_nor_a_near_copy_of_it_is_trained_on(corpus: Corpus) -> None:
    trained = set().union(*(shingles(docstring.text) for docstring in corpus.train))
    for docstring in corpus.held_out:
        own = shingles(docstring.text)
        assert len(own & trained) <= MAX_COPIED * len(own), docstring.name
    assert not {document(d) for d in corpus.held_out} & {document(d) for d in corpus.train}


def test_held_out_questions_are_about_held_out_docstrings_only(corpus: Corpus) -> None:
    train, held_out = ({chat[0]["content"] for chat in chats(part, 10_000)} for part in (corpus.train, corpus.held_out))
    assert held_out
    assert not held_out & train


def test_a_family_of_overloads_falls_on_one_side() -> None:
    family = [f"Applies a {n}D convolution over an input signal composed of several input planes." for n in (1, 2, 3)]
    sides = {is_held_out(Docstring("torch", "torch.nn.Conv", "", text)) for text in family}
    assert len(sides) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Too short.",
        ">>> only(an)\n'example'",
        "x = 1; y = 2; {a: [0, 1, 2, 3, 4], b: [5, 6, 7, 8]} == f(x)[0:1]",
        "Größe " * 9,
    ],
)
def test_what_is_no_english_prose_is_left_out(text: str) -> None:
    assert usable_part(Docstring("p", "p.f", "()", text)) is None


def test_examples_at_the_end_are_cut_off() -> None:
    docstring = Docstring("p", "p.f", "(x)", "Return the square of a number.\n\nExamples\n--------\n\n>>> f(3)\n9")
    cut = usable_part(docstring)
    assert cut is not None
    assert cut.text == "Return the square of a number."


GOOGLE = """Fit a line through points.

Args:
    x (`list`, *optional*, defaults to `(0, 1)`):
        Where the points are.
    weight (float): How much each point counts. All the
        same by default.

Returns:
    Line: The line that fits best.

Raises:
    ValueError: If there are no points.
"""
NUMPY = """Fit a line through points.

Parameters
----------
x : list, optional
    Where the points are.
weight : float
    How much each point counts. All the
    same by default.

Returns
-------
Line
    The line that fits best.

Raises
------
ValueError
    If there are no points.
"""
SPHINX = """Fit a line through points.

:param x: Where the points are.
:param float weight: How much each point counts.
    All the same by default.
:returns: The line that fits best.
:raises ValueError: If there are no points.
"""


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_every_style_of_docstring_gives_the_same_sections(text: str) -> None:
    sections = parse(text.strip())
    assert sections.summary == "Fit a line through points."
    assert sections.parameters == (("x", "Where the points are."), ("weight", "How much each point counts."))
    assert sections.returns == "The line that fits best."
    assert sections.raises == (("ValueError", "If there are no points."),)


def test_questions_are_answered_from_the_sections() -> None:
    asked = [chat for chat in conversations(Docstring("p", "p.fit", "(x, weight=1)", GOOGLE.strip()))]
    turns = [(chat[i]["content"], chat[i + 1]["content"]) for chat in asked for i in range(0, len(chat), 2)]
    assert [answer for _, answer in turns] == [
        "Fit a line through points.",
        "- `x`: Where the points are.\n- `weight`: How much each point counts.",
        "The line that fits best.",
        "- `ValueError`: If there are no points.",
    ]
    assert "`p.fit(x, weight=1)`" in turns[0][0]


def test_files_without_valid_python_have_no_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_text('def f():\n    """Print something old."""\n    print "old"\n')
    assert read_file("p", "p.old", path) == []


def test_names_signatures_and_published_places_are_read(tmp_path: Path) -> None:
    path = tmp_path / "_impl.py"
    path.write_text(
        '@set_module("pandas")\nclass Frame:\n    """A table."""\n'
        "    def __init__(self, data, *, copy: bool = False): ...\n"
        '    def head(self, n: int = 5):\n        """The first rows."""\n'
        '    def _hidden(self):\n        """No one sees this."""\n'
        'def hidden():\n    """Defined in a private module and published nowhere."""\n'
    )
    names = [(each.name, each.signature) for each in read_file("pandas", "pandas._impl", path)]
    assert names == [("pandas.Frame", "(data, *, copy=False)"), ("pandas.Frame.head", "(n=5)")]


def test_every_kind_of_shard_holds_its_records(tmp_path: Path) -> None:
    records = [{"text": f"number {i}"} for i in range(8)]
    names = ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"]
    for folder in ("one", "two"):
        write_shards(tmp_path / folder, records, names)
    one = [(tmp_path / "one" / name).read_bytes() for name in names]
    assert one == [(tmp_path / "two" / name).read_bytes() for name in names]
    texts = [one[0], gzip.decompress(one[1]), zstandard.ZstdDecompressor().decompressobj().decompress(one[2])]
    read = [[json.loads(line) for line in text.splitlines()] for text in texts]
    read.append(pq.read_table(tmp_path / "one" / "d.parquet").to_pylist())
    assert read == [records[i::4] for i in range(4)]
