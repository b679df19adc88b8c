"""Clients that dawdle or vanish: their connections end, nothing of them stays, and everybody else is served."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane import ControlPlane
from endpoint import HOST, WAIT, Endpoint
from reports import body, step

PATIENCE = 2.0
"""Seconds: longer than a handshake takes on a busy machine."""


@pytest.fixture(scope="module")
def hasty(control_plane: ControlPlane, home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """An endpoint that waits for nobody."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HANDSHAKE_SECONDS", "IDLE_SECONDS", "BODY_SECONDS"):
            patch.setattr(f"finetune_operator.progress.server.{name}", PATIENCE)
        with Endpoint(control_plane, home, tmp_path_factory.mktemp("hasty")) as running:
            yield running


def tcp(endpoint: Endpoint) -> socket.socket:
    return socket.create_connection((HOST, endpoint.server.port), timeout=WAIT)


def tls(endpoint: Endpoint) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=endpoint.ca_file)
    return context.wrap_socket(tcp(endpoint), server_hostname=HOST)


def others_are_served(endpoint: Endpoint) -> bool:
    pod = endpoint.pod(endpoint.job())
    return endpoint.post(pod.job, body(step(1)), endpoint.token(pod))[0] == 200


def test_who_never_begins_the_handshake_is_hung_up_on(hasty: Endpoint) -> None:
    with tcp(hasty) as client:
        assert others_are_served(hasty)
        assert client.recv(1) == b""


@pytest.mark.parametrize("head", [b"", b"POST /v1/jobs/1/progress HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_who_never_ends_the_head_is_hung_up_on(hasty: Endpoint, head: bytes) -> None:
    with tls(hasty) as client:
        client.sendall(head)
        assert others_are_served(hasty)
        assert client.recv(1) == b""


def test_who_never_ends_the_body_is_told_so_and_nothing_of_it_is_held(hasty: Endpoint) -> None:
    pod = hasty.pod(hasty.job())
    head = f"POST /v1/jobs/{pod.job}/progress HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    with tls(hasty) as client:
        client.sendall(f"{head}Authorization: Bearer {hasty.token(pod)}\r\n\r\n{{".encode())
        assert others_are_served(hasty)
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")
    assert hasty.server._held == 0


def test_who_vanishes_in_the_middle_of_a_body_leaves_nothing_behind(hasty: Endpoint) -> None:
    pod = hasty.pod(hasty.job())
    head = f"POST /v1/jobs/{pod.job}/progress HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    client = tls(hasty)
    client.sendall(f"{head}Authorization: Bearer {hasty.token(pod)}\r\n\r\n{{".encode())
    client.close()
    assert others_are_served(hasty)
    assert hasty.mailbox.take(pod.job) is None
    assert hasty.server._held == 0


@pytest.mark.parametrize(
    "head",
    [
        b"Authorization: Bearer secret" + b"x" * 10_000,  # above the limit, and one TLS record: nothing is left to send
        b"Authorization: Bearer sec\x01ret",
        b"secret",
    ],
)
def test_a_head_that_cannot_be_read_is_refused_and_not_quoted_in_the_log(
    endpoint: Endpoint, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with tls(endpoint) as client:
        client.sendall(b"POST / HTTP/1.1\r\n" + head + b"\r\n\r\n")
        assert client.recv(100)[8:13] == b" 400 "
    assert caplog.text == ""


def test_what_is_no_tls_is_hung_up_on_and_does_not_fill_the_log(
    hasty: Endpoint, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with tcp(hasty) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert others_are_served(hasty)
        assert client.recv(100)[:1] in (b"", b"\x15"), "nothing, or an alert of TLS"
    assert [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")] == []
