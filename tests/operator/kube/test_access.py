"""Credentials in all their forms, and how they renew themselves, at a real API server."""

from __future__ import annotations

import asyncio
import base64
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from access_probe import edited, token_of, user_of, whoami
from cluster_identity import Authority, kubeconfig
from control_plane import ControlPlane
from finetune_operator.kube import AccessError, Client, Unauthorized, Unreachable
from finetune_operator.kube.config import Access, find_access, in_cluster, of_kubeconfig


def test_the_bearer_of_a_token(control_plane: ControlPlane) -> None:
    assert whoami(control_plane.kubeconfig("tenant")) == "tenant"


def test_the_context_that_is_named(control_plane: ControlPlane, tmp_path: Path) -> None:
    def two(config: dict[str, Any]) -> None:
        config["users"].append({"name": "root", "user": {"token": token_of(control_plane, "admin")}})
        config["contexts"].append({"name": "other", "context": {"cluster": "finetune", "user": "root"}})

    path = edited(control_plane, tmp_path / "config", two)
    assert (whoami(path), whoami(path, "other")) == ("tenant", "admin")
    with pytest.raises(AccessError, match="Expected object with name none"):
        whoami(path, "none")


def test_the_kubeconfig_that_kubectl_would_take(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}:{control_plane.kubeconfig('tenant')}")

    async def main() -> str:
        async with await Client.connect(context="finetune") as client:
            return await user_of(client)

    assert asyncio.run(main()) == "tenant"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist; name the kubeconfig that kubectl uses"),
        ("{", "no access to the API server: .*"),
        ("[]", "no access to the API server: .*"),
        ("{}", "Expected key current-context"),
    ],
    ids=["missing", "no yaml", "a list", "empty"],
)
def test_a_file_that_is_no_kubeconfig_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AccessError, match=message):
        asyncio.run(find_access(str(path)))


def test_a_user_without_credentials_is_an_error(control_plane: ControlPlane, tmp_path: Path) -> None:
    path = edited(control_plane, tmp_path / "config", lambda config: config["users"][0].update(user={}))
    with pytest.raises(AccessError, match="leads to no credentials for its context 'finetune'"):
        asyncio.run(find_access(str(path)))


def test_outside_a_pod_a_kubeconfig_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(AccessError, match="runs in no pod of a cluster; name a kubeconfig"):
        asyncio.run(find_access())


def test_a_server_of_another_authority_is_not_trusted(control_plane: ControlPlane, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(kubeconfig(control_plane.url, Authority().pem, token_of(control_plane, "tenant")))
    with pytest.raises(Unreachable, match="certificate verify failed"):
        whoami(path)


def test_a_server_of_another_name_is_not_trusted(control_plane: ControlPlane, tmp_path: Path) -> None:
    def named(name: str) -> Path:
        return edited(
            control_plane,
            tmp_path / name,
            lambda config: config["clusters"][0]["cluster"].update({"tls-server-name": name}),
        )

    assert whoami(named("kubernetes.default.svc")) == "tenant"
    with pytest.raises(Unreachable, match=r"certificate is not valid for 'kubernetes\.example'"):
        whoami(named("kubernetes.example"))


def test_verification_is_skipped_only_where_the_kubeconfig_says_so(control_plane: ControlPlane, tmp_path: Path) -> None:
    def skip(config: dict[str, Any]) -> None:
        cluster = config["clusters"][0]["cluster"]
        del cluster["certificate-authority-data"]
        cluster["insecure-skip-tls-verify"] = True

    assert whoami(edited(control_plane, tmp_path / "config", skip)) == "tenant"


def plugin(folder: Path, tokens: list[str], valid: timedelta | None) -> dict[str, Any]:
    """A user section whose command gives these tokens in turn (the last one for ever) and counts its runs."""
    expiry = "" if valid is None else f"{datetime.now(UTC) + valid:%Y-%m-%dT%H:%M:%SZ}"
    script = f"""
import json, pathlib
runs = pathlib.Path({str(folder / "runs")!r})
count = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (count + 1))
status = {{"token": {tokens!r}[min(count, {len(tokens) - 1})]}}
if {expiry!r}:
    status["expirationTimestamp"] = {expiry!r}
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}}))
"""
    (folder / "plugin.py").write_text(script)
    command = {"command": sys.executable, "args": [str(folder / "plugin.py")]}
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", **command}}


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text())


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def users_over_time(access: Access, clock: Clock, *steps: Callable[[], None]) -> list[str]:
    """Who we are, at first and after each step."""

    async def main() -> list[str]:
        await access.read()
        async with Client(access) as client:
            found = [await user_of(client)]
            for step in steps:
                step()
                found.append(await user_of(client))
            return found

    return asyncio.run(asyncio.wait_for(main(), 60))


def later(clock: Clock, seconds: float) -> Callable[[], None]:
    def step() -> None:
        clock.now += seconds

    return step


@pytest.mark.parametrize(
    ("valid", "seconds", "expected"),
    [
        (timedelta(hours=1), 61, ["tenant", "tenant"]),
        (timedelta(minutes=4), 61, ["tenant", "operator"]),
        (timedelta(minutes=4), 59, ["tenant", "tenant"]),
    ],
    ids=["valid for long", "near its end", "asked a moment ago"],
)
def test_a_command_gives_a_new_token_when_the_last_one_nears_its_end(
    control_plane: ControlPlane, tmp_path: Path, valid: timedelta, seconds: float, expected: list[str]
) -> None:
    tokens = [token_of(control_plane, "tenant")] * 2 + [token_of(control_plane, "operator")]
    user = plugin(tmp_path, tokens, valid)
    path = edited(control_plane, tmp_path / "config", lambda config: config["users"][0].update(user=user))
    clock = Clock()
    assert users_over_time(Access(of_kubeconfig(str(path), None), clock), clock, later(clock, seconds)) == expected


def test_many_requests_at_once_run_the_command_once(control_plane: ControlPlane, tmp_path: Path) -> None:
    user = plugin(tmp_path, [token_of(control_plane, "tenant")], timedelta(minutes=4))
    path = edited(control_plane, tmp_path / "config", lambda config: config["users"][0].update(user=user))
    clock = Clock()

    async def main() -> None:
        access = Access(of_kubeconfig(str(path), None), clock)
        await access.read()
        before = runs(tmp_path)
        clock.now += 61
        async with Client(access) as client:
            await asyncio.gather(*(user_of(client) for _ in range(10)))
        assert runs(tmp_path) == before + 1

    asyncio.run(asyncio.wait_for(main(), 60))


def pod_folder(plane: ControlPlane, folder: Path, user: str) -> Path:
    """What a pod finds in place of its service account: a token, here of a user, and the authority's certificate."""
    folder.mkdir()
    (folder / "token").write_text(token_of(plane, user) + "\n")
    shutil.copy(plane.folder / "ca.crt", folder / "ca.crt")
    return folder


@pytest.fixture
def pod(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(control_plane.port))
    return pod_folder(control_plane, tmp_path / "pod", "tenant")


def test_a_pods_token_is_read_again_each_minute(control_plane: ControlPlane, pod: Path) -> None:
    clock = Clock()

    def rotate() -> None:
        (pod / "token").write_text(token_of(control_plane, "operator"))

    def rotated_a_minute_ago() -> None:
        clock.now += 61

    found = users_over_time(Access(in_cluster(pod), clock), clock, rotate, rotated_a_minute_ago)
    assert found == ["tenant", "tenant", "operator"]


def test_a_token_that_the_server_refuses_is_read_again_at_once(control_plane: ControlPlane, pod: Path) -> None:
    clock = Clock()
    good = (pod / "token").read_text()
    (pod / "token").write_text("revoked")

    async def main() -> None:
        access = Access(in_cluster(pod), clock)
        await access.read()
        async with Client(access) as client:
            with pytest.raises(Unauthorized):  # it was read a moment ago
                await user_of(client)
            clock.now += 6
            with pytest.raises(Unauthorized):
                await user_of(client)
            (pod / "token").write_text(good)
            clock.now += 6
            assert await user_of(client) == "tenant"

    asyncio.run(asyncio.wait_for(main(), 30))


def test_credentials_that_cannot_be_read_again_go_on_as_they_were(pod: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def lose() -> None:
        (pod / "token").unlink()
        clock.now += 61

    assert users_over_time(Access(in_cluster(pod), clock), clock, lose) == ["tenant", "tenant"]
    assert "going on with the credentials read before" in caplog.text


def test_a_new_authority_is_trusted_without_a_restart(control_plane: ControlPlane, pod: Path, tmp_path: Path) -> None:
    clock = Clock()
    (pod / "ca.crt").write_bytes(Authority().pem)

    async def main() -> None:
        access = Access(in_cluster(pod), clock)
        await access.read()
        async with Client(access) as client:
            with pytest.raises(Unreachable, match="certificate verify failed"):
                await user_of(client)
            (pod / "ca.crt").write_bytes(control_plane.authority.pem)
            clock.now += 61
            assert await user_of(client) == "tenant"

    asyncio.run(asyncio.wait_for(main(), 30))


def test_the_owner_of_a_client_certificate(control_plane: ControlPlane, tmp_path: Path) -> None:
    certificate, key = control_plane.authority.issue("tenant", [], ["tenant"])
    (tmp_path / "tenant.crt").write_bytes(certificate)
    (tmp_path / "tenant.key").write_bytes(key)
    beside = {"client-certificate": "tenant.crt", "client-key": "tenant.key"}
    path = edited(control_plane, tmp_path / "config", lambda config: config["users"][0].update(user=beside))
    assert whoami(path) == "tenant"
    within = {
        f"{name}-data": base64.b64encode((tmp_path / file).read_bytes()).decode() for name, file in beside.items()
    }
    path = edited(control_plane, tmp_path / "config", lambda config: config["users"][0].update(user=within))
    assert whoami(path) == "tenant"
