"""A replica that does not lead hands a report on to the one that does, and its answer back.

It judges nothing: the leader checks the token, and nobody but a replica can make it come here, because the leader's
address is taken from the Lease and its certificate is checked against our own authority. The body is passed on as it
comes and never held.
"""

from __future__ import annotations

import logging

import aiohttp
from aiohttp import web

from finetune_operator.core.lease import Lease
from finetune_operator.progress.secret import Certificates

ADDRESS = "finetune.dev/progress-address"
"""Annotation of the Lease: where the replica that holds it takes reports (host:port, an IPv6 address in brackets)."""

HERE = ""
"""The leader's address, seen from itself."""

HANDED_ON = "X-Finetune-Handed-On"
"""Set on requests of another replica: they are not handed on once more while leadership changes."""

PASSED = ("Authorization", "Content-Type", "Content-Length")

PATIENCE = 4.5
"""Seconds for the leader's answer; the trainer waits 5."""

MOST_CONNECTIONS = 100

logger = logging.getLogger(__name__)


def leader_address(lease: Lease) -> str | None:
    """Where the leader takes reports: HERE if that is this replica, None when nobody is known to lead."""
    if lease.is_leader:
        return HERE
    record = lease.record
    return record.annotations.get(ADDRESS) if record is not None and record.holder else None


class Forwarder:
    """Sends requests on to other replicas; `host_name` is one of the names in their certificate. Call `close`."""

    def __init__(self, certificates: Certificates, host_name: str) -> None:
        self._certificates = certificates
        self._host_name = host_name
        self._session: aiohttp.ClientSession | None = None

    async def hand_on(self, request: web.Request, address: str) -> web.Response | None:
        """Return the answer of the replica at `address` (host:port), or None when there is none."""
        headers = {name: request.headers[name] for name in PASSED if name in request.headers}
        try:
            async with self._open().post(
                f"https://{address}{request.rel_url.raw_path}",
                data=request.content,
                headers=headers | {HANDED_ON: "1"},
                ssl=self._certificates.peers,
                server_hostname=self._host_name,
                allow_redirects=False,
            ) as response:
                body = await response.read()
                kept = {name: response.headers[name] for name in ("Retry-After",) if name in response.headers}
                return web.Response(status=response.status, body=body, content_type=response.content_type, headers=kept)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("the leader at %s does not take reports: %s", address, str(error) or "timed out")
            return None

    async def close(self) -> None:
        """Close the connections to other replicas."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MOST_CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=PATIENCE),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session
