"""Where a replica says that it can be reached is what others can put into a URL."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from finetune_operator.render.reporting import report_variables
from finetune_operator.settings import read_settings
from looks import UID, make_job
from render_example import OPERATOR

HOSTS = [("10.0.0.7", "10.0.0.7"), ("operator.svc", "operator.svc"), ("fd00::7", "[fd00::7]")]


@pytest.mark.parametrize(("host", "written"), HOSTS)
def test_the_address_of_a_replica_is_its_hosts_and_its_port(host: str, written: str) -> None:
    settings = read_settings([], {"POD_IP": host})
    assert settings.progress_address == f"{written}:8443"
    assert read_settings(["--address", host, "--progress-port", "1"]).progress_address == f"{written}:1"


def test_a_container_that_is_started_again_is_another_process_than_before() -> None:
    first, second = (read_settings([], {"POD_NAME": "operator-7d9c-x2x"}).identity for _ in range(2))
    assert first.startswith("operator-7d9c-x2x-")
    assert first != second
    assert read_settings(["--identity", "one"], {"POD_NAME": "x"}).identity == "one"


@pytest.mark.parametrize(("host", "written"), HOSTS)
def test_runs_report_to_a_url_of_the_operators_host(host: str, written: str) -> None:
    url = report_variables(make_job(), replace(OPERATOR, service=host))["FINETUNE_PROGRESS_URL"]
    assert url == f"https://{written}:8443/v1/jobs/{UID}/progress"
    assert (urlsplit(url).hostname, urlsplit(url).port) == (host, 8443)
