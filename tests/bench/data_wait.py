"""How long a trainer waits for its data: the ranks of a node read tokens from S3 while each step takes its time.

A step is what it is with a GPU: the time that the computation takes, in which the processor has nothing to do, and all
ranks end it together. The same steps on one batch that is there already are the rate with synthetic data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import repeat
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.findings import Findings
from bench.race import Spread
from bench.stream_peers import ROW, Ours
from finetune_trainer.data import DataSettings, StepBatch, collate
from s3_server import create_bucket, serving

BUCKET = "bench"
RANKS = 4
ROWS = 64
"""Of a global batch."""
PACKAGES = ("torch", "transformers", "numpy", "boto3", "awscrt")


@dataclass(frozen=True)
class Size:
    """Chunks of 256 documents of 515 tokens, steps of each turn, rounds, and tokens that the node trains by second."""

    chunks: int
    steps: int
    rounds: int
    rate: float

    @property
    def seconds(self) -> float:
        """What a step takes."""
        return ROWS * ROW / self.rate


# 8 H100 train a model of 1.5e9 parameters at some 400,000 tokens/s (6 FLOP by parameter and token, 45 % of 989 TFLOPS).
FULL = Size(120, 100, 5, 1e6)
SIZES = {"full": FULL, "tiny": Size(24, 10, 1, 1e6)}


def chosen_size() -> Size:
    """`BENCH_SCALE`: full (the default), or tiny, to try the bench itself; bounds hold for full only."""
    return SIZES[os.environ.get("BENCH_SCALE", "full")]


@dataclass(frozen=True)
class Walk:
    """What a rank saw of a turn: seconds that it waited for each batch, seconds until the first, and for all others."""

    waits: list[float]
    first: float
    seconds: float


@dataclass(frozen=True)
class Turn:
    """What the node saw: a step waits for the rank whose batch comes last."""

    synthetic: float
    rate: float
    share: float
    first: float


@dataclass
class WaitReport(Findings):
    """Turns, and the shares that were judged."""

    KIND = "data-wait"
    PEERS = ()

    size: Size
    turns: list[Turn] = field(default_factory=list)

    def judge(self) -> None:
        """AssertionError beyond a bound (at the full scale)."""
        judged = self.size == FULL
        self.hold("data-wait-share", [turn.share for turn in self.turns], judged=judged)
        self.hold("data-wait-rate", [turn.rate / turn.synthetic for turn in self.turns], judged=judged)

    def show(self, console: Console) -> None:
        """Print what was measured, of what."""
        console.print(
            f"[bold]Waiting for data from S3[/bold]: {RANKS} ranks of one node, steps of {ROWS} rows of {ROW:,} tokens "
            f"in {1000 * self.size.seconds:.0f} ms, ranks and server on {os.cpu_count()} cores, load "
            f"{self.load_before:.1f} before; {', '.join(f'{name} {version(name)}' for name in PACKAGES)}"
        )
        table = Table("what", "median (least to most)")
        rows = {
            "million tokens/s with synthetic data": [turn.synthetic / 1e6 for turn in self.turns],
            "million tokens/s": [turn.rate / 1e6 for turn in self.turns],
            "share of the time that steps wait": [turn.share for turn in self.turns],
            "seconds to the first batch": [turn.first for turn in self.turns],
        }
        for name, values in rows.items():
            table.add_row(name, str(Spread.of(values)))
        console.print(table)
        self.show_ratios(console)


def measure(size: Size, folder: Path) -> WaitReport:
    """Let the ranks train in turns on synthetic and on real data, each real turn in a new order from nothing."""
    report = WaitReport(size)
    with serving(folder / "server") as server:
        create_bucket(server, BUCKET)
        before = dict(os.environ)
        os.environ |= server.environment()
        try:
            Ours(BUCKET, size.chunks, folder).prepare()
            report.turns += run(size, folder)
        finally:
            os.environ.clear()
            os.environ |= before
    return report


def run(size: Size, folder: Path) -> list[Turn]:
    """All turns, by processes that are started once."""
    spawn = get_context("spawn")
    step, results = spawn.Barrier(RANKS), spawn.Queue()
    ranks = [spawn.Process(target=train, args=(number, size, folder, step, results)) for number in range(RANKS)]
    for rank in ranks:
        rank.start()
    told: list[list[tuple[Walk, Walk]]] = []
    try:
        while len(told) < RANKS:
            with suppress(Empty):
                told.append(results.get(timeout=1))
            assert not any(rank.exitcode for rank in ranks), "a rank failed: see above"
    finally:
        for rank in ranks:
            rank.kill()
    return [joined(size, found) for found in zip(*told, strict=True)]


def joined(size: Size, found: Sequence[tuple[Walk, Walk]]) -> Turn:
    """One turn of all ranks."""
    synthetic, real = zip(*found, strict=True)
    tokens = size.steps * ROWS * ROW
    seconds = max(walk.seconds for walk in real)
    waited = sum(max(each) for each in zip(*(walk.waits for walk in real), strict=True))
    return Turn(
        synthetic=tokens / max(walk.seconds for walk in synthetic),
        rate=tokens / seconds,
        share=waited / seconds,
        first=max(walk.first for walk in real),
    )


def train(rank: int, size: Size, folder: Path, step: Barrier, results: Any) -> None:
    """One rank, in a process of its own: all turns."""
    import torch

    torch.set_num_threads(1)
    data = Ours(BUCKET, size.chunks, folder)
    found = []
    for turn in range(size.rounds):
        settings = DataSettings(ROW, ROWS, ROWS // RANKS, seed=turn, max_steps=size.steps + 1)
        stream = data.stream(settings, rank, RANKS, folder / f"cache-{turn}")
        step.wait(300)
        with closing(stream.batches()) as batches:
            real = walk(size, batches, step)
        with closing(stream.batches()) as batches:
            synthetic = walk(size, repeat(next(batches)), step)
        found.append((synthetic, real))
    results.put(found)


def walk(size: Size, batches: Iterator[StepBatch], step: Barrier) -> Walk:
    """Train one step that is not counted, then the others."""
    began = time.monotonic()
    compute(size, next(batches), step)
    started, waits = time.monotonic(), []
    for _ in range(size.steps):
        asked = time.monotonic()
        batch = next(batches)
        waits.append(time.monotonic() - asked)
        compute(size, batch, step)
    return Walk(waits, started - began - size.seconds, time.monotonic() - started)


def compute(size: Size, batch: StepBatch, step: Barrier) -> None:
    """A step: the tensors of its micro-batches, the time of the computation, and the end that all wait for."""
    ends = time.monotonic() + size.seconds
    for rows in filter(None, batch.micro_batches):
        collate(rows, pad_id=0)
    time.sleep(max(0.0, ends - time.monotonic()))
    step.wait(60)
