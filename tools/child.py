"""A server process that lives no longer than the program that starts it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# The kernel kills the server when the thread that started it ends, however it ends; the shell sees if that was before.
DIES_WITH_ITS_STARTER = ("setpriv", "--pdeathsig", "SIGKILL", "--", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"')
SHOWN_LINES = 15


@dataclass
class Child:
    """One server: it can be killed and started again; everything that it prints goes to <folder>/<name>.log.

    Start it from a thread that lives as long as it shall; Ctrl-C reaches only its starter.
    """

    name: str
    command: Sequence[str | Path]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Its process id while it was started and not killed."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, in `folder`; RuntimeError when it runs already."""
        if self._process is not None:
            raise RuntimeError(f"{self.name} runs already, as process {self._process.pid}")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*DIES_WITH_ITS_STARTER, str(os.getpid()), *self.command],
                cwd=self.folder,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise RuntimeError with the last lines of its log when it ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-SHOWN_LINES:])
            raise RuntimeError(f"{self.name} ended with exit code {code}. The end of {self.log}:\n{tail}")

    def kill(self) -> None:
        """End it at once with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
