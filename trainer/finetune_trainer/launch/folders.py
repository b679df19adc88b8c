"""Where a run keeps what belongs to the machine and not to the run's stores: logs, scratch space, a lock."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.errors import FinetuneError, Problem, SpecError
from finetune_trainer.spec import FineTuneJob, run_id, to_manifest

STATE_DIR = "FINETUNE_STATE_DIR"
WORKDIR = "FINETUNE_WORKDIR"
STAGING = "FINETUNE_STAGING"
DATA_CACHE_BYTES = "FINETUNE_DATA_CACHE_BYTES"
SHARED_MEMORY = Path("/dev/shm")
MOST_DATA_BYTES = 32 << 30
DISK_SHARE = 10
"""One part in so many of a disk is for data: less than what a kubelet wants to be free before it evicts pods."""


class AlreadyRunning(FinetuneError):
    """Another process on this machine runs the same run."""

    reason = "AlreadyRunning"
    retryable = False


@dataclass(frozen=True)
class RunFolder:
    """`<state>/runs/<run id>`: the resolved manifest, the ranks' logs and Ray Train's own files."""

    path: Path

    @property
    def manifest(self) -> Path:
        """The manifest as it is run, with absolute paths and overrides applied."""
        return self.path / "job.json"

    @property
    def logs(self) -> Path:
        """One `rank-<n>.log` for each rank here, appended over restarts; `launcher.log` for unexpected errors."""
        return self.path / "logs"

    def write_manifest(self, job: FineTuneJob) -> Path:
        """Write the manifest for the ranks to read."""
        self.manifest.write_text(json.dumps(to_manifest(job), indent=2), encoding="utf-8")
        return self.manifest

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run on this machine; raises AlreadyRunning. The kernel releases it when the process ends."""
        with (self.path / "lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                message = f"{self.path.name} is already running here (process {file.read().strip() or 'unknown'})"
                raise AlreadyRunning(f"{message}; wait for it, stop it with Ctrl-C, or change metadata.name") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def run_folder(job: FineTuneJob, environ: Mapping[str, str]) -> RunFolder:
    """Make the run's folder, readable by its owner only, below FINETUNE_STATE_DIR or the XDG state directory."""
    home = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    state = Path(environ.get(STATE_DIR) or Path(home) / "finetune")
    folder = RunFolder(state / "runs" / run_id(job))
    folder.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def workdir(job: FineTuneJob, environ: Mapping[str, str]) -> Path:
    """Make the node-local scratch folder of the run below FINETUNE_WORKDIR or the XDG cache directory."""
    home = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(environ.get(WORKDIR) or Path(home) / "finetune" / "work") / run_id(job)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def staging(job: FineTuneJob, environ: Mapping[str, str]) -> Path | None:
    """The run's folder in this node's memory, where checkpoints are copied to before they are stored; not made yet.

    It lies below FINETUNE_STAGING or in /dev/shm, apart for each user; None where there is none, or if that is empty.
    """
    chosen = environ.get(STAGING)
    base = Path(chosen) if chosen else SHARED_MEMORY / f"finetune-{os.getuid()}"
    there = chosen != "" and (bool(chosen) or os.access(SHARED_MEMORY, os.W_OK))
    return base / run_id(job) if there else None


def data_cache_bytes(folder: Path, environ: Mapping[str, str]) -> int:
    """The most that a run may keep of its data below `folder`; the same for each of its ranks on a node.

    FINETUNE_DATA_CACHE_BYTES, or a tenth of the folder's disk, at most 32 GiB. Raises SpecError for what is no number.
    """
    chosen = environ.get(DATA_CACHE_BYTES)
    if not chosen:
        return min(MOST_DATA_BYTES, shutil.disk_usage(folder).total // DISK_SHARE)
    if not (chosen.isascii() and chosen.isdecimal()):
        remedy = "is no number of bytes: write one such as 10000000000, or 0 to keep none of the data on the node"
        raise SpecError([Problem(DATA_CACHE_BYTES, chosen, remedy)])
    return int(chosen)
