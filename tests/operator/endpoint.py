"""A progress endpoint over real TLS, in a thread of its own, with pods and tokens of a real API server."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import ssl
import threading
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from control_plane import ControlPlane
from finetune_operator.api.job import ATTEMPT, JOB_UID
from finetune_operator.kube import Client
from finetune_operator.kube.resources import PODS, Object, Resource
from finetune_operator.progress import certificates
from finetune_operator.progress.forward import HERE, Forwarder
from finetune_operator.progress.mailbox import Key, Mailbox
from finetune_operator.progress.secret import Certificates
from finetune_operator.progress.server import ProgressServer
from finetune_operator.progress.tokens import Tokens

T = TypeVar("T")
PREFIX = "finetune.dev/progress"
HOST = "localhost"
WAIT = 20.0


@dataclass(frozen=True)
class JobPod:
    """A pod of a job as the API server has it."""

    namespace: str
    job: str
    name: str
    uid: str


class Known:
    """Jobs and pods by what the operator looks them up by, in place of its informers."""

    def __init__(self) -> None:
        self.jobs: dict[str, Key] = {}
        self.pods: dict[tuple[str, str], Object] = {}
        self.outputs: dict[str, Object] = {}

    def job(self, uid: str) -> Key | None:
        return self.jobs.get(uid)

    def pod(self, namespace: str, name: str) -> Object | None:
        return self.pods.get((namespace, name))

    def output(self, uid: str) -> Object | None:
        return self.outputs.get(uid)


class Endpoint:
    """One replica. `leader` is the address of the one that leads, HERE for this one; `outcomes` is what it counted."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        folder: Path,
        secret: str = "progress-tls",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._plane = plane
        self._now = now
        self.namespace = namespace
        self.folder = folder
        self._secret = secret
        self.known = Known()
        self.outcomes: list[str] = []
        self.reviews = 0
        self.leader: str | None = HERE
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the endpoint's thread and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds after some request."""
        with self._changed:
            assert self._changed.wait_for(condition, WAIT)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.server.port}"

    @property
    def ca_file(self) -> str:
        """A file with the certificates to trust."""
        path = self.folder / f"{self._secret}.crt"
        path.write_text(self.certificates.ca)
        return str(path)

    def url(self, job: str, path: str = "progress") -> str:
        return f"https://{self.address}/v1/jobs/{job}/{path}"

    def job(self, namespace: str | None = None) -> str:
        """Make a job known and return its uid."""
        uid = str(uuid.uuid4())
        self.known.jobs[uid] = (namespace or self.namespace, f"job-{uid[:8]}")
        return uid

    def pod(self, job: str, attempt: int = 1, namespace: str | None = None) -> JobPod:
        """Make a pod of a job, and let the operator know of it."""
        place = namespace or self.namespace
        meta = {"generateName": "head-", "namespace": place, "labels": {JOB_UID: job, ATTEMPT: str(attempt)}}
        spec = {"containers": [{"name": "main", "image": "localhost/none:1"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        made = self.run(self.client.create(PODS, body))
        name = made["metadata"]["name"]
        self.known.pods[place, name] = made
        return JobPod(place, job, name, made["metadata"]["uid"])

    def token(self, pod: JobPod, audience: str | None = None, *, bound: bool = True) -> str:
        """A token of the pod's service account, for its job, as the kubelet would mount it; 10 minutes is the least."""
        resource = Resource("", "v1", "serviceaccounts/default/token", "TokenRequest")
        spec: Object = {"audiences": [audience or f"{PREFIX}/{pod.job}"], "expirationSeconds": 600}
        if bound:
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": pod.uid}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"namespace": pod.namespace},
            "spec": spec,
        }
        return str(self.run(self.client.create(resource, body))["status"]["token"])

    def post(self, job: str, body: bytes, token: str, path: str = "progress", **headers: str) -> tuple[int, Any]:
        """Send one request on a connection of its own; returns HTTP status and JSON answer."""
        connection = self.connect()
        try:
            send = {"Authorization": f"Bearer {token}"} | headers
            connection.request("POST", f"/v1/jobs/{job}/{path}", body=body, headers=send)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPSConnection:
        """A connection that trusts `ca_file`."""
        context = ssl.create_default_context(cafile=self.ca_file)
        return http.client.HTTPSConnection(HOST, self.server.port, timeout=WAIT, context=context)

    async def _start(self) -> None:
        self.client = await Client.connect(str(self._plane.kubeconfig()), observe=self._observe)
        self.certificates = Certificates(self.client, self.namespace, self._secret, [HOST, "127.0.0.1"], self._now)
        await self.certificates.ensure()
        self.mailbox = Mailbox(lambda key, after: None)
        self.tokens = Tokens(self.client, PREFIX)
        self.server = ProgressServer(
            self.mailbox,
            self.tokens,
            self.known,
            self.certificates,
            Forwarder(self.certificates, HOST),
            lambda: self.leader,
            self._count,
        )
        await self.server.start("127.0.0.1", 0)

    async def _stop(self) -> None:
        await self.server.close()
        await self.client.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # aiohttp reads on for 10 s after clients that hang up
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _observe(self, verb: str, plural: str, status: int, seconds: float) -> None:
        self.reviews += plural == "tokenreviews"

    def _count(self, outcome: str) -> None:
        with self._changed:
            self.outcomes.append(outcome)
            self._changed.notify_all()


def short_lives(patch: pytest.MonkeyPatch) -> None:
    """Let certificates live for hours, not years: all of it fits into the day by which they begin early."""
    lives = {"AUTHORITY_LIFE": 10, "SUCCESSOR_BEFORE": 6, "SIGNS_UNTIL": 3, "CERTIFICATE_LIFE": 2, "RENEW_BEFORE": 0.5}
    for name, hours in lives.items():
        patch.setattr(certificates, name, timedelta(hours=hours))


def claims_of(token: str) -> dict[str, Any]:
    """What a token says of itself."""
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def resigned(token: str, key: bytes, **claims: object) -> str:
    """A token with other claims, signed with this PEM key as the API server signs."""
    signer = load_pem_private_key(key, None)
    assert isinstance(signer, rsa.RSAPrivateKey)
    signed = f"{token.split('.', maxsplit=1)[0]}.{_base64(json.dumps(claims_of(token) | claims).encode())}"
    return f"{signed}.{_base64(signer.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
