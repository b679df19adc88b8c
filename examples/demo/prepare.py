"""What the demo's manifests read: the data set, the tokenizer and the model to start from, in one folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import corpus
from conversations import Conversation
from docstrings import PACKAGES, Docstring, read_packages
from shards import write_shards

TEXT_SHARDS = ("train-0.jsonl.zst", "train-1.jsonl.gz", "train-2.parquet")
CHAT_SHARDS = ("train-0.jsonl", "train-1.jsonl.gz", "train-2.parquet")
MADE = "prepared.json"


@dataclass(frozen=True)
class Scale:
    """How large everything is: packages read, the corpus, tokens of the vocabulary, width and depth of the model."""

    packages: tuple[str, ...]
    corpus: corpus.Size
    vocabulary: int
    hidden: int
    layers: int


FULL = Scale(
    tuple(PACKAGES),
    corpus.Size(per_package=400, held_out=200, conversations=4000),
    vocabulary=4096,
    hidden=128,
    layers=2,
)
"""Chosen so that all of the demo takes less than 6 minutes on 2 slow cores."""

SMALL = Scale(
    ("rich", "networkx"),
    corpus.Size(per_package=200, held_out=20, conversations=1600),
    vocabulary=512,
    hidden=64,
    layers=2,
)
"""Made in seconds, and enough for a few hundred steps."""

FAST = Scale(
    ("rich", "networkx"),
    corpus.Size(per_package=40, held_out=20, conversations=60),
    vocabulary=512,
    hidden=64,
    layers=2,
)
"""For tests: a few steps of everything."""


def prepare(folder: Path, scale: Scale, console: Console) -> dict[str, int]:
    """Make `data/` and `model/` in `folder` unless they are there in this scale; returns what was counted."""
    made = folder / MADE
    if made.exists():
        before = json.loads(made.read_text())
        if before["scale"] == json.loads(json.dumps(asdict(scale))):
            console.print(f"data set, tokenizer and model are there: {folder}")
            return dict(before["counts"])
        raise SystemExit(f"{folder} holds a demo of another size: remove it, or write --output with another folder")
    with _progress(console) as progress:
        chosen = corpus.choose(_read(scale.packages, progress), scale.corpus)
        counts = {**chosen.counts, **_write_data(folder / "data", chosen, scale.corpus.conversations)}
        counts |= _write_model(folder / "model", chosen, scale, progress)
    made.write_text(json.dumps({"scale": asdict(scale), "counts": counts}, indent=2))
    return counts


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _read(packages: Iterable[str], progress: Progress) -> list[Docstring]:
    task = progress.add_task("reading docstrings (files)", total=None)
    docstrings: list[Docstring] = []
    for found, done, files in read_packages(packages):
        docstrings += found
        progress.update(task, completed=done, total=files)
    return docstrings


def _write_data(folder: Path, chosen: corpus.Corpus, limit: int) -> dict[str, int]:
    train, held_out = (corpus.chats(part, limit) for part in (chosen.train, chosen.held_out))
    write_shards(folder / "text", _documents(chosen.train), TEXT_SHARDS)
    write_shards(folder / "text", _documents(chosen.held_out), ["held-out.jsonl"])
    write_shards(folder / "chat", _chats(train), CHAT_SHARDS)
    write_shards(folder / "chat", _chats(held_out), ["held-out.jsonl"])
    return {"conversations to train on": len(train), "held-out conversations": len(held_out)}


def _documents(docstrings: Iterable[Docstring]) -> list[dict[str, str]]:
    return [{"text": corpus.document(docstring)} for docstring in docstrings]


def _chats(conversations: Sequence[Conversation]) -> list[dict[str, Conversation]]:
    return [{"messages": conversation} for conversation in conversations]


def _write_model(folder: Path, chosen: corpus.Corpus, scale: Scale, progress: Progress) -> dict[str, int]:
    task = progress.add_task("tokenizer and model", total=2)
    import starting_point  # torch and transformers take seconds to import: not in the processes that read files

    tokenizer = starting_point.train_tokenizer((corpus.document(each) for each in chosen.train), scale.vocabulary)
    progress.advance(task)
    model = starting_point.small_llama(tokenizer, scale.hidden, scale.layers, seed=0)
    starting_point.write(folder, tokenizer, model)
    progress.advance(task)
    return {"tokens in the vocabulary": len(tokenizer), "parameters": model.num_parameters()}
