"""Libraries for S3 measured in turns on one server: throughput, and processor time by the gigabyte."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.findings import Findings
from bench.peers import ask, peer
from bench.race import Spread
from s3_server import create_bucket, serving

PEERS = ("obstore==0.12.1", "s3torchconnector==1.5.0", "s3torchconnectorclient==1.5.0", "tenacity==9.1.2")
"""What only this bench needs; it is kept in the cache, in no environment."""

VERBS = ("put", "get")
BUCKET = "bench"


@dataclass(frozen=True)
class Size:
    """Bytes of an object, objects by turn, rounds."""

    bytes: int
    objects: int
    rounds: int


def chosen_size() -> Size:
    """`BENCH_SCALE`: full (the default), or tiny, to try the bench itself; bounds hold for full only."""
    return {"full": Size(64 * 2**20, 4, 7), "tiny": Size(2**20, 2, 2)}[os.environ.get("BENCH_SCALE", "full")]


@dataclass(frozen=True)
class Cost:
    """What one turn took: `size` bytes in `seconds` and `cpu` processor seconds of the client."""

    seconds: float
    cpu: float
    size: int

    @property
    def rate(self) -> float:
        """GB/s."""
        return self.size / 1e9 / self.seconds

    @property
    def price(self) -> float:
        """Processor seconds of the client by GB."""
        return self.cpu / (self.size / 1e9)


@dataclass
class StoreReport(Findings):
    """Turns by verb and peer, and the ratios that were judged."""

    KIND = "store"
    PEERS = PEERS

    size: Size
    turns: dict[str, dict[str, list[Cost]]] = field(default_factory=lambda: {verb: {} for verb in VERBS})

    def judge(self, verb: str, peer: str) -> None:
        """Keep ours over a peer's processor time by GB; AssertionError above its bound (at the full scale)."""
        pairs = zip(self.turns[verb]["ours"], self.turns[verb][peer], strict=True)
        ratios = [ours.price / theirs.price for ours, theirs in pairs]
        self.hold(f"store-{verb}-{peer}", ratios, judged=self.size == Size(64 * 2**20, 4, 7))

    def show(self, console: Console) -> None:
        """Print rates, prices and ratios."""
        console.print(
            f"[bold]S3 by library[/bold]: objects of {self.size.bytes / 2**20:g} MiB, one at a time, client and "
            f"server on {os.cpu_count()} cores, load {self.load_before:.1f} before"
        )
        table = Table("", "library", "GB/s", "CPU-s/GB of the client")
        for verb, peers in self.turns.items():
            for name, costs in peers.items():
                rate, price = (Spread.of([getattr(one, what) for one in costs]) for what in ("rate", "price"))
                table.add_row(verb, name, str(rate), str(price))
        console.print(table)
        self.show_ratios(console)


def race(size: Size, names: Sequence[str], folder: Path) -> StoreReport:
    """Let every peer put and then get its objects, once to warm up and then `size.rounds` times, in turns."""
    report = StoreReport(size)
    with ExitStack() as stack:
        server = stack.enter_context(serving(folder / "data"))
        create_bucket(server, BUCKET)
        arguments = [BUCKET, str(size.bytes)]
        peers = [
            (name, stack.enter_context(peer("store_peers.py", [name, *arguments], server.environment(), PEERS)))
            for name in names
        ]
        for number in range(-1, size.rounds):
            for name, process in peers if number % 2 == 0 else reversed(peers):
                for verb in VERBS:
                    cost = turn(process, name, f"{verb} {size.objects}")
                    if number >= 0:
                        report.turns[verb].setdefault(name, []).append(cost)
    return report


def turn(process: subprocess.Popen[str], name: str, order: str) -> Cost:
    """Let a peer do what it is told; AssertionError if it fails."""
    return Cost(**json.loads(ask(process, name, order)))
