"""The Secret with the certificates: several replicas race for it, somebody deletes it, it is renewed while in use."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlane
from endpoint import HOST, Endpoint, short_lives
from finetune_operator.kube import Client, Object
from finetune_operator.kube.resources import SECRETS
from finetune_operator.progress.certificates import CA, CERTIFICATE, KEY, read_authorities, renewed
from finetune_operator.progress.secret import Certificates, decoded
from finetune_trainer.launch.progress import Channel, ask
from reports import body, step

NOW = datetime.now(UTC)
REPLICAS = 6
NAMES = [HOST]


class Clock:
    """The time of day, set by the test."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Replicas:
    """Several of them, each with connections of its own, and one Secret."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self.namespace = namespace
        self.name = f"tls-{uuid.uuid4().hex[:6]}"
        self.statuses: list[tuple[str, int]] = []
        self.clock = Clock()

    async def __aenter__(self) -> list[Certificates]:
        config = str(self._plane.kubeconfig())
        self.clients = [await Client.connect(config, observe=self._observe) for _ in range(REPLICAS)]
        return [Certificates(one, self.namespace, self.name, NAMES, self.clock) for one in self.clients]

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            await client.close()

    async def secret(self) -> Object:
        return await self.clients[0].get(SECRETS, self.namespace, self.name)

    async def replace(self, data: dict[str, Any]) -> None:
        await self.clients[0].patch(SECRETS, self.namespace, self.name, {"data": data})

    def _observe(self, verb: str, plural: str, status: int, seconds: float) -> None:
        self.statuses.append((verb, status))


async def ensure(replicas: list[Certificates]) -> set[str]:
    """Let all look at once; returns the authorities that they give to pods."""
    await asyncio.gather(*(one.ensure() for one in replicas))
    return {one.ca for one in replicas}


async def race(replicas: list[Certificates], patch: pytest.MonkeyPatch) -> set[str]:
    """As `ensure`, but nobody goes on before everybody has looked."""
    all_have_looked = asyncio.Barrier(len(replicas))
    with patch.context() as held:
        for one in replicas:
            held.setattr(one, "_read", partial(_read_and_wait, one, all_have_looked, []))
        return await ensure(replicas)


async def _read_and_wait(one: Certificates, all_have_looked: asyncio.Barrier, looks: list[None]) -> Object | None:
    found = await Certificates._read(one)
    looks.append(None)
    if len(looks) == 1:
        await all_have_looked.wait()
    return found


def test_replicas_that_start_together_agree_on_one_authority(
    control_plane: ControlPlane, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        group = Replicas(control_plane, home)
        async with group as replicas:
            (ca,) = await race(replicas, monkeypatch)
            assert decoded(await group.secret())[CA] == ca.encode()
            assert group.statuses.count(("create", 409)) == REPLICAS - 1, "all of them tried"
            group.statuses.clear()
            assert await ensure(replicas) == {ca}
            assert group.statuses == [("get", 200)] * REPLICAS

    asyncio.run(play())


def test_replicas_that_renew_together_agree_on_one_certificate(
    control_plane: ControlPlane, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        group = Replicas(control_plane, home)
        async with group as replicas:
            (ca,) = await ensure(replicas)
            before = decoded(await group.secret())[CERTIFICATE]
            group.clock.now += timedelta(days=61)
            group.statuses.clear()
            assert await race(replicas, monkeypatch) == {ca}
            after = decoded(await group.secret())[CERTIFICATE]
            assert after != before
            assert group.statuses.count(("patch", 409)) == REPLICAS - 1
            assert {one._files[CERTIFICATE] for one in replicas if one._files} == {after}

    asyncio.run(play())


def test_a_deleted_secret_comes_back_with_the_authority_that_running_pods_trust(
    control_plane: ControlPlane, home: str
) -> None:
    async def play() -> None:
        group = Replicas(control_plane, home)
        async with group as replicas:
            (ca,) = await ensure(replicas)
            await group.clients[0].delete(SECRETS, home, group.name)
            assert await ensure(replicas[:2]) == {ca}
            assert decoded(await group.secret())[CA] == ca.encode()

    asyncio.run(play())


@pytest.mark.parametrize("data", [{CERTIFICATE: ""}, {KEY: ""}, {CA: None}, {CA: "bm90IFBFTQ=="}])
def test_a_damaged_secret_is_repaired(control_plane: ControlPlane, home: str, data: dict[str, Any]) -> None:
    async def play() -> None:
        group = Replicas(control_plane, home)
        async with group as replicas:
            await ensure(replicas)
            await group.replace(data)
            assert len(await ensure(replicas)) == 1
            assert renewed(decoded(await group.secret()), NAMES, NOW) is None

    asyncio.run(play())


def test_a_secret_that_the_chart_made_empty_is_filled(control_plane: ControlPlane, home: str) -> None:
    async def play() -> None:
        group = Replicas(control_plane, home)
        async with group as replicas:
            meta = {"namespace": home, "name": group.name}
            await group.clients[0].create(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": meta})
            (ca,) = await ensure(replicas)
            assert decoded(await group.secret())[CA] == ca.encode()

    asyncio.run(play())


def test_the_authority_changes_while_clients_are_connected(
    control_plane: ControlPlane, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours stand for years: at 0 the first authority signs, at 5 there are two, from 7 on the second one signs."""
    short_lives(monkeypatch)
    clock = Clock()
    with Endpoint(control_plane, home, tmp_path, secret="changing-tls", now=clock) as endpoint:
        pod = endpoint.pod(endpoint.job())
        token = endpoint.token(pod)
        endpoint.mailbox.ask_stop(pod.job, NOW + timedelta(hours=1), "the job is suspended")
        headers = {"Authorization": f"Bearer {token}"}
        path = f"/v1/jobs/{pod.job}/progress"
        first_only = tmp_path / "first.crt"
        first_only.write_text(endpoint.certificates.ca)
        early = endpoint.connect()
        early.request("POST", path, body(step(1)), headers)
        assert early.getresponse().read()
        assert isinstance(early.sock, ssl.SSLSocket)
        served_first = early.sock.getpeercert(binary_form=True)

        clock.now = NOW + timedelta(hours=5)
        endpoint.run(endpoint.certificates.ensure())
        both = tmp_path / "both.crt"
        both.write_text(endpoint.certificates.ca)
        assert len(read_authorities(endpoint.certificates._files or {})) == 2
        channels = [Channel(endpoint.url(pod.job), token=token, ca_file=str(file)) for file in (first_only, both)]
        assert [hears_the_stop(channel) for channel in channels] == [True, True]

        clock.now = NOW + timedelta(hours=8)
        endpoint.run(endpoint.certificates.ensure())
        assert [hears_the_stop(channel) for channel in channels] == [False, True]
        late = endpoint.connect()
        late.request("POST", path, body(step(2)), headers)
        assert late.getresponse().status == 200
        assert isinstance(late.sock, ssl.SSLSocket)
        assert late.sock.getpeercert(binary_form=True) != served_first
        early.request("POST", path, body(step(1), step(2), step(3)), headers)  # on the connection from before
        assert early.getresponse().status == 200
        for connection in (early, late):
            connection.close()


def hears_the_stop(channel: Channel) -> bool:
    """Whether the trainer's client trusts the endpoint: it would take a stop from nobody else."""
    return ask(channel).stop_by is not None
