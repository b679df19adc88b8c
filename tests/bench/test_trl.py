"""The product against TRL's SFTTrainer, each in one process on all cores."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.contestants import global_batches
from bench.race import race
from bench.report import Report
from bench.trl_contestants import ISOLATING
from bench.turns import Contestant, contestant
from bench.workload import Workload
from finetune_trainer.spec import load_job

pytestmark = pytest.mark.bench

OURS = "tests/bench/contestants.py:ours"
IDENTICAL, RAW = "tests/bench/trl_contestants.py:identical", "tests/bench/trl_contestants.py:raw"


@pytest.mark.parametrize(("name", "objective"), [("trl-identical", "CPT"), ("trl-identical-masked", "SFT")])
def test_identical_batches_train_no_slower_than_in_trl(
    name: str, objective: str, workload: Workload, report: Report, tmp_path: Path
) -> None:
    job = workload.manifest(name, packing="None", objective=objective)
    payload = {"job": str(job), "workdir": str(tmp_path / "work")}
    with ExitStack() as stack:
        ours = stack.enter_context(contestant("ours", OURS, payload, tmp_path))
        trl = stack.enter_context(contestant("trl", IDENTICAL, payload, tmp_path))
        found = race([ours, trl], steps=2, rounds=4)
    found.check_same_tokens()
    report.record(f"same padded batches, {objective}", found)
    report.judge(name, found, "ours", "trl")


def test_the_same_records_train_faster_than_in_trl_with_each_ones_best_isolating_setting(
    workload: Workload, report: Report, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        contestants = []
        for packing in ("BestFit", "None"):
            job = workload.manifest(f"ours-{packing.lower()}", packing=packing)
            payload = {"job": str(job), "workdir": str(tmp_path / f"ours-{packing}")}
            contestants.append(stack.enter_context(contestant(f"ours {packing}", OURS, payload, tmp_path)))
        for setting in ISOLATING:
            job = workload.manifest(f"trl-{setting}", packing="BestFit" if setting == "bfd" else "None")
            payload = {"job": str(job), "setting": setting, "workdir": str(tmp_path / f"trl-{setting}")}
            contestants.append(stack.enter_context(contestant(f"trl {setting}", RAW, payload, tmp_path)))
        found = race(contestants, steps=2, rounds=4)
    ours = found.fastest([name for name in found.turns if name.startswith("ours")])
    trl = found.fastest([name for name in found.turns if name.startswith("trl")])
    report.record("same records", found, {one.name: ready_after(one, workload) for one in contestants})
    report.judge("trl-best", found, ours, trl)


def ready_after(one: Contestant, workload: Workload) -> str:
    """How long the data took before the first step; TRL prepares all of it, our stream a block of 4096 records."""
    if one.name.startswith("trl"):
        return f"data ready after {one.warm_up.note['preparation']:.1f} s"
    return f"data ready after {seconds_to_first_batch(one.name.removeprefix('ours '), workload):.1f} s"


def seconds_to_first_batch(packing: str, workload: Workload) -> float:
    """Index, tokenise, mask and pack, as far as the stream needs for its first batch."""
    job = load_job(workload.manifest("first-batch", packing=packing))
    started = time.monotonic()
    global_batches(job, count=1)
    return time.monotonic() - started
