"""Ways to save and load training state, in turns on one S3 server: rate, processor time, how long training waits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.findings import Findings
from bench.peers import peer
from bench.race import Spread
from bench.store_race import BUCKET, PEERS, Cost, turn
from s3_server import S3Server, create_bucket, serving

SCRIPT = "checkpoint_peers.py"
VERBS = ("save", "load", "stall")
FULL, TINY = 768 * 2**20, 96 * 2**20
ROUNDS = 7


@dataclass
class CheckpointReport(Findings):
    """Turns by verb and peer, and the ratios that were judged; `size` is bytes of state."""

    KIND = "checkpoint"
    PEERS = PEERS

    size: int
    turns: dict[str, dict[str, list[Cost]]] = field(default_factory=lambda: {verb: {} for verb in VERBS})

    def judge(self, verb: str, peer: str, what: str) -> None:
        """Keep ours over a peer's `seconds`, or `cpu` seconds; AssertionError above its bound (at the full scale)."""
        pairs = zip(self.turns[verb]["ours"], self.turns[verb][peer], strict=True)
        ratios = [(getattr(ours, what) / ours.size) / (getattr(theirs, what) / theirs.size) for ours, theirs in pairs]
        self.hold(f"checkpoint-{verb}-{what}-{peer}", ratios, judged=self.size == FULL)

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
        self.show_ratios(console)


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
