"""Each objective against TRL's trainer of it, and classifiers against transformers', in one process on all cores."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.objective_workload import TASKS, ObjectiveWorkload, make_objective_workload
from bench.race import Race, race
from bench.report import Report
from bench.trl_objective_peers import BEST
from bench.turns import contestant
from bench.workload import Workload

pytestmark = pytest.mark.bench

OURS = "tests/bench/contestants.py:ours"
PEERS = "tests/bench/trl_objective_peers.py"
STEPS, ROUNDS = 2, 4
ALIKE = 1e-4
"""Relative; how far the losses of a step may lie apart in float32 after ten steps of two trainers."""


@pytest.fixture(scope="module")
def objectives(workload: Workload) -> ObjectiveWorkload:
    return make_objective_workload(workload)


@pytest.mark.parametrize("objective", TASKS)
def test_the_same_batches_of_an_objective_train_no_slower_than_in_trl(
    objective: str, objectives: ObjectiveWorkload, report: Report, tmp_path: Path
) -> None:
    name = f"trl-identical-{objective}"
    job = objectives.manifest(name, objective, packing="None")
    payload = {"job": str(job), "workdir": str(tmp_path / "work")}
    with ExitStack() as stack:
        ours = stack.enter_context(contestant("ours", OURS, payload, tmp_path))
        trl = stack.enter_context(contestant("trl", f"{PEERS}:identical", payload, tmp_path))
        found = race([ours, trl], steps=STEPS, rounds=ROUNDS)
    found.check_same_tokens()
    notes = {one: f"losses {', '.join(f'{loss:.5f}' for loss in losses(found, one))}" for one in found.turns}
    report.record(f"same padded batches, {objective}", found, notes)
    assert losses(found, "ours") == pytest.approx(losses(found, "trl"), rel=ALIKE)
    report.judge(name, found, "ours", "trl")


@pytest.mark.parametrize("objective", TASKS)
def test_the_same_records_of_an_objective_train_faster_than_in_trl_with_each_ones_best_setting(
    objective: str, objectives: ObjectiveWorkload, report: Report, tmp_path: Path
) -> None:
    name = f"trl-best-{objective}"
    with ExitStack() as stack:
        contestants = []
        for packing in ("BestFit", "None"):
            job = objectives.manifest(f"{name}-{packing.lower()}", objective, packing=packing, best=True)
            payload = {"job": str(job), "workdir": str(tmp_path / f"ours-{packing}")}
            contestants.append(stack.enter_context(contestant(f"ours {packing}", OURS, payload, tmp_path)))
        for setting in BEST[objective]:
            job = objectives.manifest(f"{name}-trl", objective, packing="None", best=True)
            payload = {"job": str(job), "setting": setting, "workdir": str(tmp_path / f"trl-{setting}")}
            contestants.append(stack.enter_context(contestant(f"trl {setting}", f"{PEERS}:raw", payload, tmp_path)))
        found = race(contestants, steps=STEPS, rounds=ROUNDS)
    ours = found.fastest([one for one in found.turns if one.startswith("ours")])
    trl = found.fastest([one for one in found.turns if one.startswith("trl")])
    report.record(f"same records, {objective}", found)
    report.judge(name, found, ours, trl)


def losses(found: Race, name: str) -> list[float]:
    """Of every step so far, from the first one, in order."""
    noted: list[float] = list(found.turns[name][-1].note["losses"])
    return noted
