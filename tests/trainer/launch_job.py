"""Manifests and environments for launcher tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_trainer.context import StopSignal
from finetune_trainer.launch.events import Kind
from finetune_trainer.launch.folders import run_folder, workdir
from finetune_trainer.launch.launcher import Launcher, Lines, Plan
from finetune_trainer.launch.machine import Machine
from finetune_trainer.launch.rank import LOOP
from finetune_trainer.launch.supervisor import Deadlines, Ended, Supervisor, View
from finetune_trainer.spec import parse_job

TARGETS = Path(__file__).parent


def manifest(name: str = "tiny", replicas: int = 2, **spec: Any) -> dict[str, Any]:
    """Return a manifest whose loop is replaced by a target, so that its uris are never opened."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "file:///models/tiny"},
            "method": {"type": "Full"},
            "objective": {"type": "CPT"},
            "data": {"train": [{"uri": "file:///data/train.jsonl"}], "maxLength": 64},
            "training": {"maxSteps": 2, "globalBatchSize": 4, "learningRate": 1.0e-3},
            "checkpoint": {"uri": "file:///checkpoints", "everySteps": 1},
            "output": {"uri": "file:///out", "format": "Full"},
            "workers": {"replicas": replicas, "gpusPerReplica": 0},
            **spec,
        },
    }


def plan(target: str, name: str, replicas: int = 2, **spec: Any) -> Plan:
    """Return a plan that runs `launch_targets:<target>`; the folders come from the environment."""
    return plan_of(manifest(name, replicas, **spec), f"launch_targets:{target}")


def plan_of(document: dict[str, Any], entrypoint: str = LOOP) -> Plan:
    """Return a plan that runs a manifest, by default with the real training loop."""
    job = parse_job(json.dumps(document))
    folder = run_folder(job, os.environ)
    folder.write_manifest(job)
    return Plan(job, Machine(2, 0), folder, workdir(job, os.environ), entrypoint=entrypoint)


class Shown:
    """A view that keeps what it was shown."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def show(self, event: Any) -> None:
        self.events.append(dict(event))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def of(self, kind: Kind) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]


def supervise(make: Callable[[Lines], Launcher], made: Plan, view: View, stop: StopSignal | None = None) -> Ended:
    """Run a plan to its end as `finetune run` does, with four minutes for the ranks to start."""
    deadlines = Deadlines(start=240, silence=made.job.spec.no_progress_deadline_seconds)
    return Supervisor(view, stop or StopSignal(), deadlines).supervise(make)


def starts(made: Plan, rank: int) -> list[int]:
    """Return the process ids with which a target's rank was started, in order."""
    pids: list[int] = json.loads((made.workdir / f"starts-{rank}.json").read_text())
    return pids


@contextmanager
def run_command(job: Path, *options: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Start `finetune run -o json` on a manifest in a process group of its own, as a terminal does."""
    code = "from finetune_trainer.cli.app import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "run", str(job), "-o", "json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[str], kind: str) -> list[dict[str, Any]]:
    """Read events up to the first of this kind."""
    return until_event(process, lambda event: event["kind"] == kind)


def until_event(process: subprocess.Popen[str], holds: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Read events up to the first of which this holds."""
    assert process.stdout is not None
    events: list[dict[str, Any]] = []
    for text in process.stdout:
        events.append(json.loads(text))
        if holds(events[-1]):
            return events
    raise AssertionError(f"it is not among {events}; stderr: {process.stderr and process.stderr.read()}")


def rest(process: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], str]:
    """Read everything to the end."""
    out, err = process.communicate(timeout=240)
    return [json.loads(text) for text in out.splitlines()], err
