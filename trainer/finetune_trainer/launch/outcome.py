"""Turns whatever ended a rank into one record with an exit code, and finds the cause among the records of all ranks."""

from __future__ import annotations

import errno
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Self

from finetune_trainer.errors import (
    DeviceOutOfMemory,
    FinetuneError,
    Hang,
    HostOutOfMemory,
    Stopped,
    StorageError,
)

PROGRAMMING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    FileNotFoundError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    PermissionError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""Built-in errors that the same input raises again, so that a restart only costs time."""

BROKEN_CONNECTION = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "connection was closed",
    "broken pipe",
    "socket closed",
    "ncclremoteerror",
    "remote process has terminated",
    "failed to recv, got 0 bytes",
)
"""What gloo, NCCL and the rendezvous store write when another rank went away."""

COLLECTIVE_TIMEOUT = (
    "timed out waiting",
    "wait timeout",
    "collective operation timeout",
    "timeout(ms)",
    "socket timeout",
)
"""What gloo, NCCL and the rendezvous store write when another rank did not come in time."""

KILLED = "Killed"
"""Reason of a process that a signal ended, for a cause that nobody has told."""

HOST_ALLOCATION = ("can't allocate memory", "cannot allocate memory", "defaultcpuallocator")


@dataclass(frozen=True)
class Failure:
    """Why one rank ended before the run was complete; JSON-able by `to_json`.

    `collateral` marks what another rank's end brings about (an error that was shared, a broken connection, a SIGTERM of
    the launcher): never the cause while another record exists. `time` is in seconds since the epoch, `traceback` empty
    for expected errors.
    """

    exit_code: int
    reason: str
    message: str
    retryable: bool
    rank: int | None = None
    collateral: bool = False
    time: float = field(default_factory=time.time)
    traceback: str = ""

    def to_json(self) -> dict[str, object]:
        """Return a dict that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Read what `to_json` wrote; unknown keys are ignored."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})  # type: ignore[arg-type]

    def event(self) -> dict[str, object]:
        """Return the `failure` event of `finetune_trainer.launch.events`."""
        event: dict[str, object] = {
            "kind": "failure",
            "exitCode": self.exit_code,
            "reason": self.reason,
            "message": self.message,
            "retryable": self.retryable,
        }
        return event if self.rank is None else {**event, "rank": self.rank}


class RunFailed(FinetuneError):
    """A run ended with this failure; raised by launchers, which have already decided about restarts."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)

    def __reduce__(self) -> tuple[type[RunFailed], tuple[Failure]]:
        return type(self), (self.failure,)


def failure_of(error: BaseException, rank: int | None = None) -> Failure:
    """Classify an exception that ended a rank (or the launcher itself, with rank None)."""
    if isinstance(error, RunFailed):
        return error.failure
    if isinstance(error, FinetuneError):
        return Failure(error.exit_code, error.reason, str(error), error.retryable, rank, error.collateral)
    return _of_memory(error, rank) or _of_system(error, rank) or _of_collective(error, rank) or _unexpected(error, rank)


def _as(kind: type[FinetuneError], message: str, rank: int | None) -> Failure:
    return Failure(kind.exit_code, kind.reason, message, kind.retryable, rank)


def _of_memory(error: BaseException, rank: int | None) -> Failure | None:
    text = str(error)
    torch = sys.modules.get("torch")  # a process that never imported torch cannot raise its errors
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        remedy = "lower spec.training.microBatchSize or spec.data.maxLength, or set gradientCheckpointing: On"
        return _as(DeviceOutOfMemory, f"the GPU ran out of memory; {remedy}. {text}", rank)
    if isinstance(error, MemoryError) or any(mark in text.lower() for mark in HOST_ALLOCATION):
        return _as(HostOutOfMemory, f"the host ran out of memory. {text}".rstrip(), rank)
    return None


def _of_system(error: BaseException, rank: int | None) -> Failure | None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" at {error.filename}" if error.filename else ""
        return _as(StorageError, f"no space left{where}; free some and run again, what was committed is kept", rank)
    return None


def _of_collective(error: BaseException, rank: int | None) -> Failure | None:
    if not isinstance(error, RuntimeError):  # base of torch's distributed errors
        return None
    text = str(error).lower()
    if any(mark in text for mark in BROKEN_CONNECTION):
        lost = Failure(1, "PeerLost", f"lost the connection to another rank: {_first_line(error)}", True, rank)
        return replace(lost, collateral=True)
    if any(mark in text for mark in COLLECTIVE_TIMEOUT):
        message = f"another rank did not answer within spec.noProgressDeadlineSeconds: {_first_line(error)}"
        return replace(_as(Hang, message, rank), collateral=True)
    return None


def _unexpected(error: BaseException, rank: int | None) -> Failure:
    text = "".join(traceback.format_exception(error))
    retryable = not isinstance(error, PROGRAMMING_ERRORS)
    return Failure(1, "Error", f"{type(error).__name__}: {error}".rstrip(": "), retryable, rank, traceback=text)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


def failure_of_exit(rank: int, exit_code: int, out_of_memory: bool = False) -> Failure:
    """Describe a rank that left no record of its own, by its exit code (negative: killed by that signal).

    `out_of_memory` says that the kernel's or Ray's memory killer was seen at work meanwhile.
    """
    if exit_code == Hang.exit_code:
        return _as(Hang, f"rank {rank} made no progress for longer than spec.noProgressDeadlineSeconds", rank)
    if exit_code >= 0:
        return Failure(1, "Crashed", f"rank {rank} ended with exit code {exit_code} and no message", True, rank)
    name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
    if out_of_memory and -exit_code == signal.SIGKILL:
        return killed_for_memory(rank)
    by_launcher = -exit_code == signal.SIGTERM
    return Failure(1, KILLED, f"rank {rank} was killed by {name}", True, rank, collateral=by_launcher)


def killed_for_memory(rank: int | None) -> Failure:
    """Describe a rank that the memory killer of the kernel or of Ray has ended; None: one that had just begun."""
    remedy = "the host ran out of memory; use fewer ranks, a smaller microBatchSize, or more memory"
    which = "a rank" if rank is None else f"rank {rank}"
    return _as(HostOutOfMemory, f"{which} was killed by the memory killer: {remedy}", rank)


def root_cause(failures: Iterable[Failure]) -> Failure:
    """Return the failure that brought about the others: the first one that is not collateral.

    Of ranks that stopped together, the lowest speaks for all. Raises ValueError when there is no failure at all.
    """

    def order(failure: Failure) -> tuple[bool, bool, float, int]:
        stopped = failure.reason == Stopped.reason
        return failure.collateral, stopped, 0.0 if stopped else failure.time, failure.rank or 0

    return min(failures, key=order)
