"""Which exit code, reason and message follow from what ended a rank."""

from __future__ import annotations

import errno
import json
import pickle
import signal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from finetune_trainer.errors import DataError, Hang, PeerFailed, Problem, SpecError, Stopped, StorageError
from finetune_trainer.launch import ray_environment
from finetune_trainer.launch.error_file import ERROR_FILE, read_error_data, write_error_file
from finetune_trainer.launch.outcome import Failure, RunFailed, failure_of, failure_of_exit
from finetune_trainer.launch.processes import memory_kills, memory_kills_of_pod
from finetune_trainer.launch.ray_environment import RAY_VERSION, check_version

GLOO_CLOSED = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"
GLOO_TIMEOUT = "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv"


@pytest.mark.parametrize(
    ("error", "exit_code", "reason", "retryable", "collateral"),
    [
        (SpecError([Problem("spec.x", 1, "write 2")]), 10, "InvalidSpec", False, False),
        (DataError("bad record"), 11, "BadData", False, False),
        (torch.OutOfMemoryError("CUDA out of memory"), 12, "DeviceOutOfMemory", False, False),
        (MemoryError(), 13, "HostOutOfMemory", False, False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 13, "HostOutOfMemory", False, False),
        (StorageError("bucket gone"), 14, "Storage", True, False),
        (OSError(errno.ENOSPC, "No space left on device", "/ckpt/a"), 14, "Storage", True, False),
        (Stopped("at step 7"), 15, "Stopped", False, False),
        (Hang("no step for 60 s"), 16, "Hang", True, False),
        (PeerFailed("rank 0 failed: bad record"), 1, "PeerFailed", True, True),
        (RuntimeError(GLOO_TIMEOUT), 16, "Hang", True, True),
        (RuntimeError(GLOO_CLOSED), 1, "PeerLost", True, True),
        (RuntimeError("CUDA error: an illegal memory access"), 1, "Error", True, False),
        (TypeError("unsupported operand"), 1, "Error", False, False),
        (KeyboardInterrupt(), 1, "Error", True, False),
    ],
)
def test_every_error_has_its_exit_code(
    error: BaseException, exit_code: int, reason: str, retryable: bool, collateral: bool
) -> None:
    failure = failure_of(error, rank=3)
    assert (failure.exit_code, failure.reason, failure.retryable) == (exit_code, reason, retryable)
    assert failure.collateral == collateral
    assert failure.rank == 3


def test_a_full_gpu_says_what_to_change() -> None:
    message = failure_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")).message
    assert "microBatchSize" in message
    assert "Tried to allocate 2 GiB" in message


def test_a_full_disk_names_the_file_and_keeps_what_was_committed() -> None:
    message = failure_of(OSError(errno.ENOSPC, "No space left on device", "/ckpt/a")).message
    assert "/ckpt/a" in message
    assert "what was committed is kept" in message


def test_only_unexpected_errors_carry_a_traceback() -> None:
    def broken() -> None:
        raise LookupError("no such layer")

    with pytest.raises(LookupError) as caught:
        broken()
    assert "in broken" in failure_of(caught.value).traceback
    assert failure_of(DataError("bad record")).traceback == ""


@pytest.mark.parametrize(
    ("exit_code", "out_of_memory", "expected"),
    [
        (-signal.SIGKILL, False, (1, "Killed", True)),
        (-signal.SIGKILL, True, (13, "HostOutOfMemory", False)),
        (-signal.SIGSEGV, True, (1, "Killed", True)),
        (16, False, (16, "Hang", True)),
        (3, False, (1, "Crashed", True)),
    ],
)
def test_a_rank_without_a_record_is_described_by_its_exit_code(
    exit_code: int, out_of_memory: bool, expected: tuple[int, str, bool]
) -> None:
    failure = failure_of_exit(1, exit_code, out_of_memory)
    assert (failure.exit_code, failure.reason, failure.retryable) == expected


def test_a_rank_that_the_launcher_terminated_is_never_the_cause() -> None:
    assert failure_of_exit(0, -signal.SIGTERM).collateral


def test_a_failure_survives_json_and_pickle() -> None:
    failure = failure_of(ValueError("x"), rank=1)
    assert Failure.from_json(json.loads(json.dumps(failure.to_json()))) == failure
    assert pickle.loads(pickle.dumps(RunFailed(failure))).failure == failure


def test_torch_reads_the_message_and_we_the_whole_record_from_the_error_file(tmp_path: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    failure = failure_of(DataError("record 7 is empty"), rank=1)
    write_error_file(failure, {ERROR_FILE: str(tmp_path / "error.json")})
    seen = ProcessFailure(local_rank=1, pid=1, exitcode=11, error_file=str(tmp_path / "error.json"))
    assert seen.message["message"] == "record 7 is empty"  # type: ignore[index]  # declared as str, a dict in fact
    assert read_error_data(seen.error_file_data) == failure


def test_memory_kills_are_counted_in_the_own_cgroup_first(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 12\noom_kill 40\n")
    assert memory_kills(tmp_path) == 40
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    (tmp_path / "sys/fs/cgroup/job").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/job/memory.events").write_text("low 0\noom 2\noom_kill 3\n")
    assert memory_kills(tmp_path) == 3


def test_memory_kills_of_a_pod_are_those_of_its_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sys/fs/cgroup/memory").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert memory_kills_of_pod(tmp_path) == 0  # a machine counts from its start, whoever runs on it
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert memory_kills_of_pod(tmp_path) == 2
    (tmp_path / "sys/fs/cgroup/memory.events").write_text("oom 1\noom_kill 1\n")
    assert memory_kills_of_pod(tmp_path) == 1


def test_where_no_ray_is_promised_none_need_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(ray_environment, "version", missing)
    check_version({})


def test_the_image_has_the_ray_that_the_runtime_promises() -> None:
    found = version("ray")
    check_version({})
    check_version({RAY_VERSION: found})
    check_version({RAY_VERSION: f"{found.rsplit('.', 1)[0]}.99"})
    with pytest.raises(SpecError, match=rf"of the FineTuneRuntime: its image has Ray {found}: .*'1.2.3'"):
        check_version({RAY_VERSION: "1.2.3"})
