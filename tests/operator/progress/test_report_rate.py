"""How many reports one replica takes: 4,000 jobs that report every 10 s make 400 a second."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import report_rate
from bench.bounds import bounds
from endpoint import Endpoint

CLIENTS, REPORTS, JOBS, ROUNDS = 2, 800, 100, 5


@pytest.mark.bench
def test_400_reports_are_taken_per_second(endpoint: Endpoint) -> None:
    pods = [endpoint.pod(endpoint.job()) for _ in range(JOBS)]
    jobs = [(pod.job, endpoint.token(pod)) for pod in pods]
    rates = [round(run_clients(endpoint, jobs)) for _ in range(ROUNDS)]
    print(f"reports per second, each with a TLS handshake, {CLIENTS} clients on the same machine: {rates}")
    assert statistics.median(rates) >= bounds()["progress-reports"]["bound"]


def run_clients(endpoint: Endpoint, jobs: list[tuple[str, str]]) -> float:
    """Let all clients send at once; returns reports per second, all of them accepted."""
    order = {"port": endpoint.server.port, "ca_file": endpoint.ca_file, "count": REPORTS}
    command = [sys.executable, report_rate.__file__]
    environment = os.environ | {"PYTHONPATH": str(Path(report_rate.__file__).parent)}
    clients = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(CLIENTS)
    ]
    for number, client in enumerate(clients):
        assert client.stdin is not None
        client.stdin.write(json.dumps(order | {"jobs": jobs[number::CLIENTS]}))
        client.stdin.close()
    told = [json.loads(client.stdout.read()) for client in clients if client.stdout is not None]
    for client in clients:
        assert client.wait() == 0
    assert [one["accepted"] for one in told] == [REPORTS] * CLIENTS
    return sum(REPORTS / float(one["seconds"]) for one in told)
