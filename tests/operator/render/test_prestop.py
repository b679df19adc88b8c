"""The preStop hook's patience, with real processes and a real, small job API."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from finetune_operator.render.prestop import LAST_LINES, Job, main, output_waits, rank_runs, wait


@contextmanager
def job_api(statuses: list[str], code: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Answers like Ray's job API, one status after the other, the last for ever. Yields its URL and the requests."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            seen.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
            status = statuses.pop(0) if len(statuses) > 1 and self.command == "GET" else statuses[0]
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps({"status": status, "stopped": True}).encode())

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output for failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api/jobs/a-1", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.alone  # any other test's ranks would be known too
def test_a_rank_is_known_by_the_title_that_ray_gives_its_process() -> None:
    assert not rank_runs()
    title = "ray::RayTrainWorker.poll_status"
    with subprocess.Popen([title], executable="/bin/cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as rank:
        assert rank.stdin is not None
        assert rank.stdout is not None
        rank.stdin.write(b"\n")
        rank.stdin.flush()
        rank.stdout.readline()  # it answers, so it has its title
        assert rank_runs()
    assert not rank_runs()


@pytest.mark.alone
def test_a_pod_waits_for_the_output_of_its_ranks_but_not_for_ever() -> None:
    code = "print(flush=True); input()"
    command = [sys.executable, "-c", code, "-m", "finetune_trainer.launch.shipper", "s3://ckpt/x/logs"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shipper:
        assert shipper.stdout is not None
        shipper.stdout.readline()  # it runs, so that its command can be seen
        assert output_waits()
        begun = time.monotonic()
        assert main(["worker", "a-1", "30", "8265"]) == 0
        assert LAST_LINES <= time.monotonic() - begun < 30
        shipper.communicate(b"\n")


def test_the_driver_is_asked_once_and_waited_for() -> None:
    with job_api(["RUNNING", "RUNNING", "RUNNING", "STOPPED"]) as (url, seen):
        driver = Job(url, "secret")
        assert wait(driver.runs, driver.stop, seconds=30)
    assert [one for one in seen if one.startswith("POST")] == ["POST /api/jobs/a-1/stop Bearer secret"]
    assert len([one for one in seen if one.startswith("GET")]) == 4


@pytest.mark.parametrize(("statuses", "code"), [(["SUCCEEDED"], 200), (["FAILED"], 200), (["RUNNING"], 404)])
def test_nothing_is_asked_of_a_driver_that_is_over_or_was_never_there(statuses: list[str], code: int) -> None:
    with job_api(statuses, code) as (url, seen):
        driver = Job(url, "secret")
        assert wait(driver.runs, driver.stop, seconds=30)
    assert [one for one in seen if one.startswith("POST")] == []


def test_a_run_that_does_not_stop_is_left_when_the_time_is_over() -> None:
    with job_api(["RUNNING"]) as (url, _):
        driver = Job(url, "secret")
        assert not wait(driver.runs, driver.stop, seconds=1)


def test_a_head_that_does_not_listen_yet_is_asked_again() -> None:
    answers = [False, False, True, True]
    asked: list[bool] = []

    def ask() -> bool:
        asked.append(answers[len(asked)])
        return asked[-1]

    assert not wait(lambda: True, ask, seconds=3)
    assert asked == [False, False, True]


def test_a_ray_that_gives_no_answer_holds_no_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.render.prestop.UNREACHABLE", 1.0)
    driver = Job("http://127.0.0.1:9/api/jobs/a-1", "")
    assert driver.runs()
    assert wait(driver.runs, driver.stop, seconds=30)
