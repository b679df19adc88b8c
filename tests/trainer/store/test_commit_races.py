"""Up to 32 writers take a run from each other and commit at once: each entry of the log has one winner."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import contenders
from contenders import Outcome
from finetune_trainer.store import Checkpoint, Claim, ObjectStore, RunLog
from soak import trials

CONTENDERS = (2, 2, 2, 3, 3, 4, 4, 6, 8, 16, 32)


@contextmanager
def racetrack(uri: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, contenders.__file__, uri]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run_race(process: subprocess.Popen[str], race: dict[str, Any]) -> list[Outcome]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(race) + "\n")
    process.stdin.flush()
    return [Outcome(**outcome) for outcome in json.loads(process.stdout.readline())]


def make_race(trial: int) -> dict[str, Any]:
    """Contenders of one attempt (a restarted group), of attempts that the log counts, or of attempts of their own."""
    rng = random.Random(trial)
    contenders = rng.choice(CONTENDERS)
    numbered = rng.sample(range(1, contenders + 1), contenders)
    attempts = rng.choice([[1] * contenders, [None] * contenders, numbered])
    at_once, processes = rng.random() < 0.7, rng.random() < 0.5
    return {"run": f"race-{trial:04d}", "attempts": attempts, "at_once": at_once, "processes": processes}


def check_race(store: ObjectStore, race: dict[str, Any], outcomes: list[Outcome]) -> None:
    """The log tells the same as the contenders were told, and reading it proves that each entry's writer held it."""
    log = RunLog(store, race["run"])
    entries = log.entries()
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    commits = {entry.seq: entry.writer for entry in entries if isinstance(entry, Checkpoint)}
    assert commits == {outcome.seq: outcome.writer for outcome in outcomes if outcome.seq}
    claims = [entry for entry in entries if isinstance(entry, Claim)]
    assert sorted(claim.writer for claim in claims) == sorted(outcome.writer for outcome in outcomes if outcome.writer)
    last = claims[-1]
    assert last.writer in commits.values()  # nobody came after it
    for outcome in outcomes:
        if not outcome.writer:
            assert "is older and must end" in outcome.told
        elif not outcome.seq:
            assert "which stops here: two runs of one job write here" in outcome.told
    if race["at_once"]:
        assert list(commits.values()) == [last.writer]
        told = {outcome.told for outcome in outcomes if outcome.writer not in ("", last.writer)}
        assert all(f"was claimed by attempt {last.attempt} (writer {last.writer})" in one for one in told)
    assert all(log.verify(entry) == [] for entry in log.checkpoints())


@trials(share=10, whole=500)  # on each of two kinds of store
def test_each_race_for_a_commit_has_one_winner_and_every_loser_is_told(
    trials: range, store: ObjectStore, store_uri: str
) -> None:
    with racetrack(store_uri) as process:
        for trial in trials:
            race = make_race(trial)
            check_race(store, race, run_race(process, race))
