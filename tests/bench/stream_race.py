"""Streams of tokens from one S3 server measured in turns: tokens per second, and processor time by the token."""

from __future__ import annotations

import json
import os
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

PEERS = ("litdata==0.2.76", "lightning-utilities==0.15.3", "obstore==0.12.1", "tifffile==2026.3.3")
"""What only this bench needs; it is kept in the cache, in no environment."""

BUCKET = "bench"


@dataclass(frozen=True)
class Size:
    """Chunks of 256 documents of 600 tokens, and rounds."""

    chunks: int
    rounds: int


FULL = Size(640, 7)
SIZES = {"full": FULL, "tiny": Size(40, 2)}


def chosen_size() -> Size:
    """`BENCH_SCALE`: full (the default), or tiny, to try the bench itself; bounds hold for full only."""
    return SIZES[os.environ.get("BENCH_SCALE", "full")]


@dataclass(frozen=True)
class Epoch:
    """What one turn took: `tokens` in `seconds` and `cpu` processor seconds of the reader."""

    tokens: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Million tokens per second."""
        return self.tokens / 1e6 / self.seconds

    @property
    def price(self) -> float:
        """Processor seconds of the reader by 10^9 tokens."""
        return self.cpu / (self.tokens / 1e9)


@dataclass
class StreamReport(Findings):
    """Turns by peer, and the ratios that were judged."""

    KIND = "stream"
    PEERS = PEERS

    size: Size
    turns: dict[str, list[Epoch]] = field(default_factory=dict)

    def judge(self, name: str, peer: str, what: str, ours: str = "ours") -> None:
        """Keep ours over a peer's rate or price; AssertionError beyond the bound (at the full scale)."""
        pairs = zip(self.turns[ours], self.turns[peer], strict=True)
        ratios = [getattr(one, what) / getattr(theirs, what) for one, theirs in pairs]
        self.hold(name, ratios, judged=self.size == FULL)

    def show(self, console: Console) -> None:
        """Print rates, prices and ratios."""
        console.print(
            f"[bold]Tokens streamed from S3[/bold]: {self.size.chunks * 256} documents, rows of 2,048, batches of 16, "
            f"readers and server on {os.cpu_count()} cores, load {self.load_before:.1f} before"
        )
        table = Table("reader", "million tokens/s", "CPU-s by 10^9 tokens")
        for name, epochs in self.turns.items():
            table.add_row(name, *(str(Spread.of([getattr(one, what) for one in epochs])) for what in ("rate", "price")))
        console.print(table)
        self.show_ratios(console)


def race(size: Size, names: Sequence[str], folder: Path) -> StreamReport:
    """Let every peer store the documents, then read them, once to warm up and then `size.rounds` times, in turns."""
    report = StreamReport(size)
    with ExitStack() as stack:
        server = stack.enter_context(serving(folder / "data"))
        create_bucket(server, BUCKET)
        peers = []
        for name in names:
            own = folder / name
            own.mkdir()
            arguments = [name, BUCKET, str(size.chunks), str(own)]
            with peer("stream_peers.py", arguments, server.environment(), PEERS) as writer:
                ask(writer, name, "prepare")
            peers.append((name, stack.enter_context(peer("stream_peers.py", arguments, server.environment(), PEERS))))
        for number in range(-1, size.rounds):
            for name, process in peers if number % 2 == 0 else reversed(peers):
                epoch = Epoch(**json.loads(ask(process, name, "read")))
                if number >= 0:
                    report.turns.setdefault(name, []).append(epoch)
    return report
