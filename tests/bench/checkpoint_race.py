"""Ways to save and load training state, in turns on one S3 server: rate, processor time, how long training waits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.bounds import bounds
from bench.machine import load_average, tell_if_busy
from bench.peers import peer
from bench.race import Spread
from bench.store_race import BUCKET, PEERS, Cost, turn
from s3_server import S3Server, create_bucket, serving

SCRIPT = "checkpoint_peers.py"
VERBS = ("save", "load", "stall")
FULL, TINY = 768 * 2**20, 96 * 2**20
ROUNDS = 7


@dataclass
class CheckpointReport:
    """Turns by verb and peer, and the ratios that were judged; `size` is bytes of state."""

    size: int
    turns: dict[str, dict[str, list[Cost]]] = field(default_factory=lambda: {verb: {} for verb in VERBS})
    ratios: dict[str, Spread] = field(default_factory=dict)
    load_before: float = field(default_factory=load_average)

    def judge(self, verb: str, peer: str, what: str) -> None:
        """Keep ours over a peer's `seconds`, or `cpu` seconds; AssertionError above its bound (at the full scale)."""
        name = f"checkpoint-{verb}-{what}-{peer}"
        pairs = zip(self.turns[verb]["ours"], self.turns[verb][peer], strict=True)
        ratios = [(getattr(ours, what) / ours.size) / (getattr(theirs, what) / theirs.size) for ours, theirs in pairs]
        self.ratios[name] = Spread.of(ratios)
        if self.size == FULL:
            assert self.ratios[name].median <= bounds()[name]["bound"], f"{name}: {self.ratios[name]}"

    def show(self, console: Console) -> None:
        """Print seconds, rates, prices and ratios."""
        console.print(
            f"[bold]Checkpoints[/bold]: {self.size / 1e9:.2f} GB of weights and moments, client and server on "
            f"{os.cpu_count()} cores, load {self.load_before:.1f} before"
        )
        table = Table("", "way", "seconds", "GB/s", "CPU-s/GB of the client")
        for verb, peers in self.turns.items():
            for name, costs in peers.items():
                columns = (Spread.of([getattr(one, what) for one in costs]) for what in ("seconds", "rate", "price"))
                table.add_row(verb, name, *map(str, columns))
        console.print(table)
        for name, ratio in self.ratios.items():
            limits = bounds()[name]
            console.print(f"{name}: {ratio}, goal {limits['goal']:g}, bound {limits['bound']:g}")
        tell_if_busy(console, self.load_before)

    def save(self, folder: Path) -> Path:
        """Write everything that was measured as JSON; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"checkpoint-{time.strftime('%Y%m%d-%H%M%S')}.json"
        path.write_text(json.dumps(asdict(self) | {"peers": PEERS}, indent=2))
        return path


def race(names: Sequence[str], folder: Path) -> CheckpointReport:
    """Let every peer save, load and stall, once to warm up and then in turns; what was saved before is deleted.

    `BENCH_SCALE`: full (the default), or tiny, to try the bench itself; bounds hold for full only.
    """
    tiny = os.environ.get("BENCH_SCALE") == "tiny"
    report = CheckpointReport(TINY if tiny else FULL)
    with ExitStack() as stack:
        server = stack.enter_context(serving(folder / "data"))
        create_bucket(server, BUCKET)
        arguments = [BUCKET, str(report.size)]
        peers = [
            (name, stack.enter_context(peer(SCRIPT, [name, *arguments], server.environment(), PEERS))) for name in names
        ]
        for number in range(-1, 2 if tiny else ROUNDS):
            for name, process in peers if number % 2 == 0 else reversed(peers):
                for verb in VERBS:
                    cost = turn(process, name, f"{verb} 1")
                    if number >= 0:
                        report.turns[verb].setdefault(name, []).append(cost)
                delete_data(server)
    return report


def delete_data(server: S3Server) -> None:
    """Delete all state, and leave our log, which names what was there."""
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", []):
            if "/log/" not in item["Key"]:
                client.delete_object(Bucket=BUCKET, Key=item["Key"])
