"""The launcher without Ray: torch's elastic agent starts the ranks of one machine, we decide about restarts."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

from finetune_trainer.launch.decide import Fail, decide, restart_event
from finetune_trainer.launch.environment import prepare
from finetune_trainer.launch.launcher import Lines, Plan
from finetune_trainer.launch.outcome import Failure, RunFailed, root_cause
from finetune_trainer.launch.rank import ATTEMPT, LOG_DIR
from finetune_trainer.spec import ranks

TAIL = 2000
"""Characters of the agent's log shown when it ends without having recorded a failed rank."""

logger = logging.getLogger(__name__)


class TorchrunLauncher:
    """Runs the elastic agent once for each start of the ranks; its own restarts are off, they would retry any error."""

    def __init__(self, plan: Plan, lines: Lines) -> None:
        self._plan = plan
        self._lines = lines
        self._lock = threading.Lock()
        self._agent: subprocess.Popen[bytes] | None = None
        self._aborted = False

    def run(self) -> None:
        """Start the ranks until they end well, are stopped, or may not be started again."""
        allowed = self._plan.job.spec.failure_policy.max_restarts
        restarts = 0
        self._lines.emit({"kind": "phase", "name": "starting workers", "detail": f"{ranks(self._plan.job)} ranks"})
        while failures := self._start():
            cause = root_cause(failures)
            decision = decide(cause, restarts, allowed, self._lines.stop.requested)
            if isinstance(decision, Fail):
                raise RunFailed(cause)
            restarts = decision.restarts
            logger.warning("restart %d of %d after %s: %s", restarts, allowed, cause.reason, cause.message)
            self._lines.emit(restart_event(decision, allowed, cause))

    def abort(self) -> None:
        """Kill the agent and every rank below it."""
        with self._lock:
            self._aborted = True
            agent = self._agent
        if agent is not None and agent.poll() is None:
            family = [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]
            for process in family:
                _kill(process)
            psutil.wait_procs(family, timeout=10)

    def _start(self) -> list[Failure]:
        """Run all ranks once; returns how each failed rank ended, nothing when all ended well."""
        with tempfile.TemporaryDirectory(prefix="finetune-torchrun-") as scratch:
            failures = Path(scratch) / "failures.json"
            log = self._plan.folder.logs / "torchrun.log"
            with log.open("ab") as output:
                code = self._wait(self._command(failures, Path(scratch)), output.fileno())
            if code == 0:
                return []
            if not failures.is_file():
                raise RunFailed(_agent_failure(code, log))
            return [Failure.from_json(record) for record in json.loads(failures.read_text(encoding="utf-8"))]

    def _wait(self, command: list[str], output: int) -> int:
        with self._lock:
            if self._aborted:
                raise RunFailed(Failure(1, "Aborted", "the run was aborted", retryable=False))
            # a session of its own keeps the terminal's Ctrl-C from it: stops go through the answers to reports
            self._agent = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environ(),
                start_new_session=True,
            )
        return self._agent.wait()

    def _command(self, failures: Path, scratch: Path) -> list[str]:
        agent = [sys.executable, "-m", "finetune_trainer.launch.agent", str(failures)]
        one_node = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(ranks(self._plan.job))]
        once = ["--max-restarts", "0", "--log-dir", str(scratch)]
        rank = ["-m", "finetune_trainer.main", str(self._plan.folder.manifest), "--checked"]
        return [*agent, *one_node, *once, *rank, "--entrypoint", self._plan.entrypoint]

    def _environ(self) -> dict[str, str]:
        environ = {
            **os.environ,
            **self._lines.channel.environ(),
            LOG_DIR: str(self._plan.folder.logs),
        }
        if self._plan.attempt is not None:
            environ[ATTEMPT] = str(self._plan.attempt)
        device = "cuda" if self._plan.job.spec.workers.gpus_per_replica else "cpu"
        prepare(environ, device, ranks(self._plan.job), self._plan.machine.cpus)
        return environ


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _agent_failure(code: int, log: Path) -> Failure:
    tail = log.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip()
    return Failure(1, "LauncherFailed", f"torchrun ended with exit code {code}; the end of {log}:\n{tail}", False)
