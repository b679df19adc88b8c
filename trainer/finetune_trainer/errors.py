"""Everything that can end a run, with the exit code that a launcher or an operator reads.

Exit codes are a public contract (README, "Exit codes"): 0 ok, 10 spec, 11 data, 12 device out of memory, 13 host out of
memory, 14 storage, 15 stopped with a commit, 16 hang, 1 anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One mistake in a manifest: where it stands, what was found there, and what to write instead.

    `path` is written as a user would look it up, for instance `spec.data.train[0].uri`.
    """

    path: str
    value: object
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message} (got {self.value!r})"


class FinetuneError(Exception):
    """Base of all errors that this package raises on purpose; the message is meant for the user.

    `retryable` says whether starting the workers again can help: a crash or a lost node may, a wrong manifest may not.
    `collateral` marks what only follows from another rank's error.
    """

    exit_code: ClassVar[int] = 1
    reason: ClassVar[str] = "Error"
    retryable: ClassVar[bool] = True
    collateral: ClassVar[bool] = False


class SpecError(FinetuneError):
    """The manifest, or what it asks for on this machine, cannot work; carries every problem found."""

    exit_code = 10
    reason = "InvalidSpec"
    retryable = False

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class DataError(FinetuneError):
    """A data source, a record budget, a tokenizer or a model folder is unusable."""

    exit_code = 11
    reason = "BadData"
    retryable = False


class DeviceOutOfMemory(FinetuneError):
    """The accelerator ran out of memory; the same step would run out again."""

    exit_code = 12
    reason = "DeviceOutOfMemory"
    retryable = False


class HostOutOfMemory(FinetuneError):
    """The host, or the container's limit, ran out of memory."""

    exit_code = 13
    reason = "HostOutOfMemory"
    retryable = False


class StorageError(FinetuneError):
    """An object store refused, lost or corrupted something, after the retries that make sense."""

    exit_code = 14
    reason = "Storage"


class Stopped(FinetuneError):
    """The run was asked to stop and did so after committing its state; running it again continues it."""

    exit_code = 15
    reason = "Stopped"
    retryable = False


class Hang(FinetuneError):
    """No progress was made for longer than `noProgressDeadlineSeconds`."""

    exit_code = 16
    reason = "Hang"


class PeerFailed(FinetuneError):
    """Another rank failed and this one stopped with it; that rank's error is the cause, whichever is seen first."""

    reason = "PeerFailed"
    collateral = True
