"""The Secret that holds the endpoint's certificates, and the TLS contexts made of it, renewed while they are in use.

Every replica runs this and none is special: a create or a patch with the resourceVersion that was read lets one of
several win, and the others use what it wrote.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from finetune_operator.api.job import MANAGED_BY, OPERATOR
from finetune_operator.core.backoff import Backoff
from finetune_operator.kube import UNAVAILABLE, AlreadyExists, ApiError, Client, Conflict, NotFound, Object
from finetune_operator.kube.resources import SECRETS
from finetune_operator.progress.certificates import CA, CERTIFICATE, KEY, renewed

LOOK_INTERVAL = 60.0
"""Seconds between two looks at the Secret: renewed in time, restored if somebody deletes it, reloaded when another
replica renewed it."""

TRIES = 10
"""Races with other replicas in a row before it is an error."""

RETRIES = Backoff(first=0.5, longest=30.0)

logger = logging.getLogger(__name__)


class Certificates:
    """The endpoint's certificate for these names (host names and IP addresses), kept in the Secret `namespace/name`.

    `serving` is the context to listen with; certificates are renewed in it, for connections that come later. `peers` is
    the context to reach another replica with, `ca` the PEM text that clients trust it by. Call `obtain` before all.
    The client's writes must not be guarded by leadership (`Client.separate`).
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        names: Sequence[str],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._names = tuple(names)
        self._now = now
        self._files: dict[str, bytes] | None = None
        self.ca = ""
        self.serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.serving.num_tickets = 0  # a run opens one connection per report and resumes none
        self.peers = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def ensure(self) -> None:
        """Read the Secret, write it where it is missing or due, and use it. Raises ApiError when that is impossible."""
        for _ in range(TRIES):
            secret = await self._read()
            files = self._files if secret is None else decoded(secret)
            wanted = renewed(files, self._names, self._now())
            if secret is not None and files is not None and wanted is None:
                return self._use(files)
            files = dict(wanted or files or {})
            try:
                await self._write(secret, files)
            except (AlreadyExists, Conflict, NotFound):
                continue  # another replica was faster: use what it wrote
            logger.info("wrote the certificates of the progress endpoint to secret %s", self._name)
            return self._use(files)
        raise Conflict(409, "Conflict", f"secret {self._namespace}/{self._name} changed {TRIES} times in a row")

    async def obtain(self) -> None:
        """As `ensure`, for as long as the API server cannot be reached or fails: to end would bring no certificate."""
        failures = 0
        while True:
            try:
                return await self.ensure()
            except UNAVAILABLE as error:
                failures += 1
                wait = RETRIES.seconds(failures)
                logger.warning("secret %s could not be had, again in %.1f s: %s", self._name, wait, error)
                await asyncio.sleep(wait)

    async def run(self) -> None:
        """Keep the Secret and the contexts good, for ever."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                await self.ensure()
            except ApiError as error:  # what is loaded is good for another month
                logger.warning("could not look after secret %s: %s", self._name, error)

    async def _read(self) -> Object | None:
        try:
            return await self._client.get(SECRETS, self._namespace, self._name)
        except NotFound:
            return None

    async def _write(self, secret: Object | None, files: Mapping[str, bytes]) -> None:
        data = {name: base64.b64encode(content).decode() for name, content in files.items()}
        if secret is not None:
            version = {"resourceVersion": secret["metadata"]["resourceVersion"], "uid": secret["metadata"]["uid"]}
            await self._client.patch(SECRETS, self._namespace, self._name, {"metadata": version, "data": data})
            return
        metadata: dict[str, Any] = {"namespace": self._namespace, "name": self._name, "labels": {MANAGED_BY: OPERATOR}}
        body = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data}
        await self._client.create(SECRETS, body)

    def _use(self, files: Mapping[str, bytes]) -> None:
        if files == self._files:
            return
        load_pair(self.serving, files[CERTIFICATE], files[KEY])
        self.ca = files[CA].decode()
        self.peers = ssl.create_default_context(cadata=self.ca)
        self._files = dict(files)


def decoded(secret: Mapping[str, Any]) -> dict[str, bytes]:
    """The files in a Secret; one that is no base64 is left out."""
    files: dict[str, bytes] = {}
    for name, content in (secret.get("data") or {}).items():
        try:
            files[name] = base64.b64decode(content, validate=True)
        except binascii.Error:
            continue
    return files


def load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a certificate and its key into a context that may be in use; `ssl` wants a file and gets one in memory."""
    number = os.memfd_create("certificate")
    with open(number, "wb") as file:
        file.write(certificate + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{number}")
