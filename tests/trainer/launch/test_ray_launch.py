"""Real ranks under Ray Train: success, causes, restarts, stops. One Ray for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune_trainer.context import StopSignal
from finetune_trainer.launch.launcher import Launcher, Lines, Plan
from launch_job import Shown, plan, starts, supervise

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.usefixtures("ray_here")]


def ray_launcher(made: Plan) -> Callable[[Lines], Launcher]:
    from finetune_trainer.launch.ray_train import RayLauncher

    return lambda lines: RayLauncher(made, lines)


def test_ranks_work_together_and_the_result_arrives() -> None:
    made = plan("succeed", "ray-succeed")
    view = Shown()
    ended = supervise(ray_launcher(made), made, view)
    assert ended.exit_code == 0, ended
    assert ended.result is not None
    assert ended.result["sum"] == 3
    assert ended.result["places"] == [[0, 0, 2, "cpu"], [1, 1, 2, "cpu"]]
    assert [event["name"] for event in view.of("phase")] == ["starting Ray", "starting workers", "training"]
    assert list((made.folder.path / "ray" / "default.ray-succeed").glob("checkpoint_*")) == []


def test_a_users_error_is_the_cause_and_is_not_retried() -> None:
    made = plan("bad_data", "ray-bad-data")
    view = Shown()
    ended = supervise(ray_launcher(made), made, view)
    assert ended.exit_code == 11
    assert ended.failure is not None
    assert ended.failure.rank == 1
    assert ended.failure.message.startswith("file:///data/a.jsonl: record 7 has no messages")
    assert len(starts(made, 1)) == 1
    assert view.of("restart") == []
    assert "Traceback" in (made.folder.logs / "rank-1.log").read_text()


def test_a_killed_rank_is_started_again_in_the_same_ray_and_then_succeeds() -> None:
    made = plan("killed_once", "ray-killed-once")
    view = Shown()
    ended = supervise(ray_launcher(made), made, view)
    assert ended.exit_code == 0, ended
    assert ended.result == {"sum": 3, "starts": 2}
    (restart,) = view.of("restart")
    assert restart["message"].startswith("the process of rank 1 (pid ")
    assert f"pid {starts(made, 1)[0]}," in restart["message"]


def test_restarts_end_with_the_budget() -> None:
    made = plan("always_killed", "ray-always-killed", failurePolicy={"maxRestarts": 0})
    ended = supervise(ray_launcher(made), made, Shown())
    assert ended.exit_code == 1
    assert ended.failure is not None
    assert (ended.failure.reason, ended.failure.rank) == ("Killed", 1)
    assert len(starts(made, 1)) == 1


def test_a_stop_reaches_the_ranks_and_ends_the_run_with_its_exit_code() -> None:
    made = plan("until_stopped", "ray-stop")
    stop = StopSignal()

    class AfterStep(Shown):
        def show(self, event: Any) -> None:
            super().show(event)
            if event["kind"] == "progress":
                stop.request("SIGTERM received", within=120)

    ended = supervise(ray_launcher(made), made, AfterStep(), stop)
    assert ended.exit_code == 15
    assert ended.failure is not None
    assert "a checkpoint was committed" in ended.failure.message


def test_workers_inherit_credentials_and_folder_without_a_runtime_environment() -> None:
    from pathlib import Path

    made = plan("environment", "ray-environment", replicas=1)
    ended = supervise(ray_launcher(made), made, Shown())
    assert ended.result is not None
    assert ended.result["AWS_SECRET_ACCESS_KEY"] == "a-secret-of-this-test"
    assert ended.result["DS_ACCELERATOR"] == "cpu"
    assert ended.result["cwd"] == str(Path.cwd())
    for file in (made.folder.path / "ray").rglob("*"):
        assert not file.is_file() or b"a-secret-of-this-test" not in file.read_bytes()
