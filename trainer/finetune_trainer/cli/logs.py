"""`finetune logs`: what the launcher and the ranks of an attempt wrote, from the store."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from finetune_trainer.store import ObjectInfo, ObjectStore
    from finetune_trainer.store.streams import Stream

Where = Annotated[
    str, typer.Argument(help="The address in status.attempts[].logs, or the manifest.", show_default=False)
]
Attempt = Annotated[int | None, typer.Option(min=0, help="Which attempt; the newest when left out.")]
Rank = Annotated[int | None, typer.Option(min=0, help="This rank only.")]

IN_STATUS = "the address in status.attempts[].logs of the FineTuneJob"


def logs(where: Where, attempt: Attempt = None, rank: Rank = None) -> None:
    """Print what an attempt on a cluster wrote: its launcher, then each rank, in the order of their starts."""
    root, named = _place(where)
    store, streams = _streams(root, attempt if attempt is not None else named)
    newest = max((stream.attempt for stream in streams), default=None)
    wanted = {
        stream: pieces
        for stream, pieces in streams.items()
        if stream.attempt == newest and (rank is None or stream.rank == rank)
    }
    if not wanted:
        raise _nothing(root, attempt if attempt is not None else named, rank)
    try:
        for data in _text(store, wanted):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _place(where: str) -> tuple[str, int | None]:
    """The folder of a run's logs, and the attempt where the address is that of one."""
    from finetune_trainer.spec import load_local_job, logs_uri

    if "://" not in where:
        path = Path(where)
        return logs_uri(load_local_job(path)), None
    parent, _, last = where.rstrip("/").rpartition("/")
    root, attempt = (parent, int(last)) if last.isdecimal() else (where.rstrip("/"), None)
    if not root.endswith("/logs"):
        raise typer.BadParameter(f"{where!r} is no folder of logs: write {IN_STATUS}", param_hint="WHERE")
    return root, attempt


def _streams(root: str, attempt: int | None) -> tuple[ObjectStore, dict[Stream, list[ObjectInfo]]]:
    from finetune_trainer.store import open_store
    from finetune_trainer.store.streams import pieces_of

    store = open_store(root)
    return store, pieces_of(store, "" if attempt is None else f"{attempt}/")


def _text(store: ObjectStore, streams: dict[Stream, list[ObjectInfo]]) -> Iterator[bytes]:
    from finetune_trainer.store.streams import read_pieces

    for stream, pieces in streams.items():
        title = f"attempt {stream.attempt}, {stream.source}, from {stream.begun:%Y-%m-%d %H:%M:%S} UTC"
        yield f"==> {title} <==\n".encode()
        yield from read_pieces(store, pieces)
        yield b"\n"


def _nothing(root: str, attempt: int | None, rank: int | None) -> Exception:
    from finetune_trainer.store import ObjectNotFound

    what = f"rank {rank}" if rank is not None else "anybody"
    which = "" if attempt is None else f" in attempt {attempt}"
    hint = f"write {IN_STATUS}, or a manifest with its metadata.uid (kubectl get ftj <name> -o yaml)"
    return ObjectNotFound(f"there are no logs of {what}{which} in {root}: {hint}")
