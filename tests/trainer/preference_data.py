"""Small pairs and judged answers about sums, and a small job on them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from small_job import WORDS, SmallJob, make_small_job

Record = dict[str, Any]


def pair(number: int) -> Record:
    """A question with a right and a wrong answer, as messages, of lengths that differ."""
    one, other = WORDS[number % 13], WORDS[(number * 5 + number // 13) % 13]
    total = WORDS.index(one) + WORDS.index(other)
    right = f"{one} and {other} make {total}." + " That is all." * (number % 3)
    wrong = f"{one} and {other} make {total + 1 + number % 5}, I think." + " Or more." * (number % 4)
    return {
        "prompt": [{"role": "user", "content": f"What do {one} and {other} make?"}],
        "chosen": [{"role": "assistant", "content": right}],
        "rejected": [{"role": "assistant", "content": wrong}],
    }


def plain_pair(number: int) -> Record:
    """The same as texts."""
    one = pair(number)
    texts = {name: f" {one[name][0]['content']}" for name in ("chosen", "rejected")}
    return {"prompt": f"Q: {one['prompt'][0]['content']} A:", **texts}


def implicit(record: Record) -> Record:
    """A pair whose texts hold the prompt."""
    return {name: record["prompt"] + record[name] for name in ("chosen", "rejected")}


def judged(number: int) -> Record:
    """A right answer that is desirable, or a wrong one that is not; two of three are right."""
    one, good = pair(number), number % 3 != 1
    return {"prompt": one["prompt"], "completion": one["chosen" if good else "rejected"], "label": good}


def write(path: Path, records: Iterable[Record]) -> Path:
    """The records as JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


RECORDS = {"DPO": pair, "ORPO": pair, "KTO": judged}


def make_preference_job(folder: Path, kind: str, records: int = 96) -> SmallJob:
    """The small job with the data of an objective in `train.jsonl` and `eval.jsonl`."""
    small = make_small_job(folder)
    write(folder / "train.jsonl", map(RECORDS[kind], range(records)))
    write(folder / "eval.jsonl", map(RECORDS[kind], range(records, records + 24)))
    return small
