"""A plain HTTPS client of the API server, for tests of what goes over the wire."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GONE = (ConnectionError, ssl.SSLEOFError, http.client.HTTPException)  # how a connection that was reset can look


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: Any


class Connection(http.client.HTTPSConnection):
    """A connection on which a reset is an error: Python would take it for the end of what was sent."""

    def __init__(self, address: str, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(address, timeout=timeout, context=context)
        self._tls = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, suppress_ragged_eofs=False)


class KubeHttp:
    """Sends requests as the user of a kubeconfig file, each on a connection of its own."""

    def __init__(self, kubeconfig: Path, timeout: float = 30.0) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._address = urllib.parse.urlsplit(cluster["server"]).netloc
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._context = ssl.create_default_context(cadata=authority)
        self._token = user["token"]
        self._timeout = timeout

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Reply:
        """Send a request and return the whole reply; one of GONE when there is none."""
        response = self._send(method, path, body, content_type)
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, headers, json.loads(response.read()))

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """Open a watch now and return its events as they come; TimeoutError when none does in time, GONE at a reset."""
        response = self._send("GET", path, None, "application/json")
        assert response.status == http.client.OK, response.read()
        return (json.loads(line) for line in response)

    def _send(self, method: str, path: str, body: Any, content_type: str) -> http.client.HTTPResponse:
        connection = Connection(self._address, self._timeout, self._context)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse()
