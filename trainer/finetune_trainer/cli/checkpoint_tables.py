"""What `finetune checkpoints` shows of a commit: as JSON for programs, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.table import Table

if TYPE_CHECKING:
    from finetune_trainer.store import Checkpoint, RunLog
    from finetune_trainer.store.history import History

EVAL_LOSS = "evalLoss"


def summary(history: History, entry: Checkpoint) -> dict[str, Any]:
    """The facts of one commit that a list shows; `size` in bytes, losses in nats per token."""
    engine, progress = _part(entry, "engine"), _part(entry, "progress")
    return {
        "seq": entry.seq,
        "step": entry.step,
        "time": entry.time.isoformat(timespec="seconds"),
        "attempt": entry.attempt,
        "size": sum(ref.size for ref in entry.objects),
        "objects": len(entry.objects),
        "worldSize": engine.get("world_size"),
        "zeroStage": engine.get("zero_stage"),
        "loss": progress.get("loss"),
        EVAL_LOSS: entry.metric(EVAL_LOSS),
        "pinned": entry.seq in history.pinned,
        "quarantined": entry.seq in history.quarantined,
    }


def whole(log: RunLog, entry: Checkpoint) -> dict[str, Any]:
    """Everything that is known of one commit, but for the map of its tensors."""
    history, progress = log.history(), _part(entry, "progress")
    return {
        **summary(history, entry),
        "run": log.uri,
        "writer": entry.writer,
        "parent": entry.parent,
        "identity": entry.identity,
        "startedFrom": log.journal.first().info.get("startedFrom"),
        "epoch": progress.get("epoch"),
        "tokens": progress.get("tokens"),
        "data": progress.get("data"),
        "dataset": entry.body.get("dataset"),
        "model": entry.body.get("model"),
        "metrics": entry.body.get("metrics"),
        "quarantine": reason_of(log, history, entry.seq),
        "files": [{"key": ref.key, "size": ref.size, "crc64nvme": ref.crc64} for ref in entry.objects],
    }


def reason_of(log: RunLog, history: History, seq: int) -> str | None:
    """Why a commit was set aside; None for a good one. Reads the log back to where it says so."""
    from finetune_trainer.store import Quarantine

    if seq not in history.quarantined:
        return None
    later = (log.journal.entry(number) for number in range(history.newest, seq, -1))
    return next(one.reason for one in later if isinstance(one, Quarantine) and one.target == seq)


def flags(found: dict[str, Any], latest: int | None, best: int | None) -> list[str]:
    """Words beside a commit in a list."""
    places = [word for word, seq in (("latest", latest), ("best", best)) if seq == found["seq"]]
    return [*places, *(word for word in ("pinned", "quarantined") if found[word])]


def list_table(rows: Sequence[dict[str, Any]], latest: int | None, best: int | None) -> Table:
    """One line for each commit."""
    table = Table(box=None, pad_edge=False)
    for name in ("SEQ", "STEP", "COMMITTED", "ATTEMPT", "SIZE", "LOSS", "EVAL LOSS", ""):
        table.add_column(name, justify="left" if name in ("COMMITTED", "") else "right", no_wrap=True)
    for row in rows:
        loss, held_out = (f"{value:.4f}" if value is not None else "" for value in (row["loss"], row[EVAL_LOSS]))
        cells = [
            row["seq"],
            row["step"],
            row["time"][:16].replace("T", " "),
            row["attempt"],
            decimal(row["size"]),
            loss,
            held_out,
        ]
        table.add_row(*map(str, cells), " ".join(flags(row, latest, best)))
    return table


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """One line for each fact, then one for each file."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if name != "files" and value is not None:
            yield f"{name:{width}}  {value}"
    for file in facts["files"]:
        yield f"{'file':{width}}  {file['key']}  {decimal(file['size'])}  crc64nvme {file['crc64nvme']}"


def _part(entry: Checkpoint, name: str) -> dict[str, Any]:
    found = entry.body.get(name)
    return found if isinstance(found, dict) else {}
