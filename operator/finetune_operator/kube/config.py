"""Where the API server is, whom to trust and how to prove who we are, read by the official client's configuration.

Nothing of the official client is used beyond this file: its models cost more per object than the network does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import kubernetes.aio.config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME, InClusterConfigLoader

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token and the certificate of the API server's authority."""

RELOAD_SECONDS = 60.0
"""How old credentials get before they are read again; the kubelet rotates a token long before it expires."""

YOUNG_SECONDS = 5.0
"""Credentials that were read so recently are not read again, whatever the server says of them."""

Load = Callable[[], Awaitable[Configuration]]
Opening = Callable[[], Awaitable[Load]]

_official: Any = kubernetes.aio.config  # it has no types
_InCluster: Any = InClusterConfigLoader

logger = logging.getLogger(__name__)


class AccessError(Exception):
    """There are no usable credentials; the message says where they were looked for."""


class Access:
    """The address of one API server and the credentials for it, which renew themselves.

    `opening` finds the credentials from the start, what it returns renews them as far as that is needed. Call `read`
    before anything else.
    """

    def __init__(self, opening: Opening, clock: Callable[[], float] = time.monotonic) -> None:
        self._opening = opening
        self._load: Load | None = None
        self._clock = clock
        self._read_at = -YOUNG_SECONDS
        self._due = 0.0
        self._files: list[tuple[str, int]] | None = None
        self._lock = asyncio.Lock()
        self._found = Configuration()
        self.ssl: ssl.SSLContext

    @property
    def server(self) -> str:
        """URL of the server, without a slash at its end."""
        return str(self._found.host).rstrip("/")

    @property
    def proxy(self) -> str | None:
        """URL of the HTTP proxy that the kubeconfig names."""
        return self._found.proxy or None

    @property
    def server_hostname(self) -> str | None:
        """Name to look for in the server's certificate, if it is not the one in the URL."""
        return self._found.tls_server_name or None

    async def authorization(self) -> str | None:
        """Return the Authorization header to send now; None with client certificates."""
        if self._clock() >= self._due:
            await self._renew()
        token = self._found.api_key.get("BearerToken")
        return token.strip() if token else None

    def distrust(self) -> bool:
        """Have everything read again because the server did not know us; False if that was done just now."""
        if self._clock() - self._read_at < YOUNG_SECONDS:
            return False
        self._load = None
        self._due = self._clock()
        return True

    async def read(self) -> None:
        """Read the credentials now; raises AccessError."""
        try:
            load = self._load or await self._opening()
            self._found = await load()
            self._read_certificates()
        except Exception as error:  # the official loader lets anything out: ValueErrors, TypeErrors, those of YAML
            raise AccessError(f"no access to the API server: {error}") from error
        self._load = load
        self._read_at = self._clock()
        self._due = self._read_at + RELOAD_SECONDS

    async def _renew(self) -> None:
        async with self._lock:
            if self._clock() < self._due:
                return
            try:
                await self.read()
            except AccessError as error:
                logger.warning("going on with the credentials read before: %s", error)
                self._due = self._clock() + YOUNG_SECONDS

    def _read_certificates(self) -> None:
        names = [self._found.ssl_ca_cert, self._found.cert_file, self._found.key_file]
        files = [(name, os.stat(name).st_mtime_ns) for name in names if name]
        if files != self._files:
            self.ssl = _ssl_context(self._found)
            self._files = files


def _ssl_context(found: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=found.ssl_ca_cert)
    # Python 3.13 asks for extensions that the certificates of many clusters lack; Go, and so kubectl, does not.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if found.cert_file:
        context.load_cert_chain(found.cert_file, found.key_file)
    if not found.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def find_access(kubeconfig: str | None = None, context: str | None = None) -> Access:
    """Find the API server: of the kubeconfig, else of the pod that this process runs in. Raises AccessError."""
    if kubeconfig is None and context is None and not os.environ.get(SERVICE_HOST_ENV_NAME):
        raise AccessError("no access to the API server: this process runs in no pod of a cluster; name a kubeconfig")
    access = Access(in_cluster() if kubeconfig is None and context is None else of_kubeconfig(kubeconfig, context))
    await access.read()
    return access


def in_cluster(folder: Path = SERVICE_ACCOUNT) -> Opening:
    """Take the credentials of the pod that this process runs in."""

    async def load() -> Configuration:
        found = Configuration()
        _InCluster(str(folder / "token"), str(folder / "ca.crt"), try_refresh_token=False).load_and_set(found)
        return found

    async def opening() -> Load:
        return load

    return opening


def of_kubeconfig(kubeconfig: str | None, context: str | None) -> Opening:
    """Take the credentials of a kubeconfig's context, by default those that kubectl would take."""
    path = kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")

    async def opening() -> Load:
        if not any(Path(name).expanduser().exists() for name in path.split(os.pathsep)):
            raise FileNotFoundError(f"{path} does not exist; name the kubeconfig that kubectl uses")
        loader = await _official.load_kube_config(path, context, Configuration(), persist_config=False)
        if loader.current_context["context"].get("user") and not (_has(loader, "token") or _has(loader, "cert_file")):
            raise ValueError(f"{path} leads to no credentials for its context {loader.current_context['name']!r}")

        async def load() -> Configuration:
            found = Configuration()
            await loader.load_and_set(found)  # runs a command that gives tokens only when its last one nears its end
            return found

        return load

    return opening


def _has(loader: object, attribute: str) -> bool:
    return bool(getattr(loader, attribute, None))
