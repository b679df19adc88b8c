"""A run that is killed and goes on with other numbers of ranks trains on what one rank, left in peace, trains on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_trainer.data import DatasetIndex, DataState, RecordId, StepBatch, TrainStream, order, scan
from finetune_trainer.spec import Format, Overlong, Packing, TrainSource
from small_data import index_of, make_tokenizer, sentence, settings, source, write_records
from soak import trials

MOST_RANKS = 8
LONGEST = 160  # the largest maxLength of a trial, in tokens: a record of more words is too long in every one
FORMATS = (Format.MESSAGES, Format.MESSAGES, Format.PROMPT_COMPLETION, Format.TEXT)
BAD_LINES: list[Any] = ["{not json", b'{"text": "\xff"}', {}, "7", {"messages": [], "prompt": "", "text": "\ud800"}]
GlobalBatch = tuple[Any, ...]


@dataclass(frozen=True)
class Run:
    """What one trial trains on, and of its records those that fit, are too long, and cannot be used."""

    index: DatasetIndex
    values: dict[str, Any]
    weights: dict[RecordId, float]
    fit: frozenset[RecordId]
    long: frozenset[RecordId]

    def stream(self, rank: int, world_size: int, micro_batch_size: int) -> TrainStream:
        chosen = settings(**self.values, micro_batch_size=micro_batch_size)
        return TrainStream(self.index, chosen, tokenizer(), rank, world_size)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def make_run(rng: random.Random, folder: Path) -> Run:
    """One to three sources in any container and weight, with records that are too long or bad among them."""
    sources: list[TrainSource] = []
    weights: dict[RecordId, float] = {}
    kinds: dict[RecordId, str] = {}
    for number in range(rng.randint(1, 3)):
        suffix = rng.choice(["jsonl", "jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
        path = folder / f"{number}.{suffix}"
        drawn = rng.choices(["fit", "long", "bad"], weights=[84, 8, 8], k=rng.randint(12, 50))
        format_ = rng.choice(FORMATS)
        records = [make_record(rng, format_, kind, suffix, 1000 * number + i) for i, kind in enumerate(drawn)]
        write_records(path, records, row_group_size=rng.randint(8, 60))
        weight = rng.choice([1.0, 1.0, 1.0, 2.0, 0.5, 1.3])
        sources.append(source(path, weight=weight, format_=format_))
        kinds |= {f"file://{path}#{i}": kind for i, kind in enumerate(drawn, start=1)}
        weights |= dict.fromkeys(list(kinds)[-len(drawn) :], weight)
    length = {"epochs": rng.randint(1, 3)} if rng.random() < 0.75 else {"max_steps": rng.randint(10, 40)}
    values = length | {
        "max_length": rng.randint(96, LONGEST),
        "global_batch_size": rng.randint(1, 12),
        "seed": rng.randrange(2**31),
        "overlong": rng.choice(list(Overlong)),
        "packing": rng.choice(list(Packing)),
        "train_prompts": rng.random() < 0.2,
        "max_bad_ratio": 1.0,
    }
    fit, long = (frozenset(record for record, kind in kinds.items() if kind == wanted) for wanted in ("fit", "long"))
    return Run(index_of(*sources), values, weights, fit, long)


def make_record(rng: random.Random, format_: Format, kind: str, suffix: str, number: int) -> Any:
    if kind == "bad" and suffix != "parquet" and rng.random() < 0.8:
        return rng.choice(BAD_LINES)
    question = f"{number}? {sentence(number, rng.randint(1, 4))}"
    answer = (
        f"{number}: {sentence(number, rng.randint(LONGEST, 2 * LONGEST) if kind == 'long' else rng.randint(1, 13))}"
    )
    if kind == "bad":
        question, answer = "", ""
    if format_ is Format.TEXT:
        return {"text": question + answer}
    if format_ is Format.PROMPT_COMPLETION:
        return {"prompt": question, "completion": answer}
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def global_batch(shares: Sequence[StepBatch], micro_batch_size: int) -> GlobalBatch:
    """Everything about the global batch that ranks have shares of, slot by slot; what they all know must agree."""
    (agreed,) = {
        (share.global_rows, share.kept_tokens, share.tokens, share.epoch, share.consumed, share.state.model_dump_json())
        for share in shares
    }
    assert len(agreed[-1]) < 1024
    steps = zip(*(share.micro_batches for share in shares), strict=True)  # strict: equally many on every rank
    micro_batches = [micro_batch for step in steps for micro_batch in step]
    sizes = [len(micro_batch) for micro_batch in micro_batches]
    assert sum(sizes) == agreed[0]
    assert max(sizes) <= min(micro_batch_size, min(sizes) + 1)
    rows = [row for micro_batch in micro_batches for row in micro_batch]
    slots = [(row.records, row.input_ids.tobytes(), row.labels.tobytes(), row.position_ids.tobytes()) for row in rows]
    return (*agreed, slots)


def left_in_peace(run: Run) -> list[GlobalBatch]:
    with closing(run.stream(0, 1, micro_batch_size=4).batches()) as batches:
        return [global_batch([batch], 4) for batch in islice(batches, run.values.get("max_steps"))]


def killed_again_and_again(run: Run, rng: random.Random, steps: int) -> tuple[list[GlobalBatch], int]:
    """The global batches behind the weights that the run ends with, and the number of its lives.

    A life has 1 to 8 ranks, commits its state after random steps, and ends after a random one, which takes with it what
    was trained since the last commit.
    """
    trained: list[GlobalBatch] = []
    committed, state = 0, None
    lives = 0
    while True:
        lives += 1
        del trained[committed:]
        world_size, micro_batch_size = rng.randint(1, MOST_RANKS), rng.randint(1, 4)
        last = len(trained) + rng.randint(1, max(2, steps // 2))
        with ExitStack() as ranks:
            streams = [
                ranks.enter_context(closing(run.stream(rank, world_size, micro_batch_size).batches(state)))
                for rank in range(world_size)
            ]
            while len(trained) < last:
                shares = [next(batches, None) for batches in streams]
                if shares[0] is None or len(trained) == run.values.get("max_steps"):
                    assert len(trained) == run.values.get("max_steps") or shares == [None] * world_size
                    return trained, lives
                trained.append(global_batch([share for share in shares if share is not None], micro_batch_size))
                if rng.random() < 0.3:
                    committed, state = len(trained), DataState.model_validate_json(trained[-1][5])


def check_uses(run: Run, trained: Sequence[GlobalBatch]) -> None:
    """Count records by what the trial knows of them: what can be trained was, as often as its weight says."""
    uses = Counter(record for batch in trained for slot in batch[-1] for record in slot[0])
    counters = DataState.model_validate_json(trained[-1][5]).counters
    used = run.fit | (run.long if run.values["overlong"] is not Overlong.DROP else frozenset())
    assert set(uses) <= used
    expected = {record: int(run.weights[record]) * run.values["epochs"] for record in used}
    assert all(uses[record] >= times for record, times in expected.items())
    if run.values["overlong"] is not Overlong.SPLIT and set(run.weights.values()) <= {1.0, 2.0}:
        assert uses.total() == sum(expected.values()) + counters.substituted


@trials(share=16, whole=1000)
def test_killed_and_elastic_runs_train_on_the_same_global_batches(
    trials: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = 0
    for trial in trials:
        rng = random.Random(trial)
        monkeypatch.setattr(order, "BLOCK_RECORDS", rng.choice([8, 24, 64]))
        monkeypatch.setattr(scan, "CHUNK_RECORDS", rng.choice([4, 16]))
        folder = tmp_path / str(trial)
        folder.mkdir()
        run = make_run(rng, folder)
        expected = left_in_peace(run)
        trained, lived = killed_again_and_again(run, rng, len(expected))
        assert [batch[:-1] for batch in trained] == [batch[:-1] for batch in expected], f"trial {trial}"
        assert trained == expected, f"trial {trial}"
        if "epochs" in run.values:
            check_uses(run, expected)
        lives += lived
    assert lives >= 2 * len(trials)
