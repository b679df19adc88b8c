"""A hub on this machine: what downloading needs of the Hugging Face HTTP API, served from plain folders."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"^/api/models/(?P<repository>[^/]+/[^/]+)(/(?P<verb>revision|tree)/(?P<revision>[^/?]+))?(\?.*)?$")
FILE = re.compile(r"^/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")


@dataclass
class Hub:
    """`repositories` maps `org/name` to a folder with the revisions `main` and COMMIT; `requests` is a log."""

    repositories: dict[str, Path]
    token: str | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    endpoint: str = ""

    def files_read(self) -> list[str]:
        """Paths inside repositories whose bodies were sent, in order."""
        found = [FILE.match(path) for method, path in self.requests if method == "GET"]
        return [match["path"] for match in found if match]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port; its `endpoint` is what HF_ENDPOINT should be."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            hub.requests.append((self.command, self.path))
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._error(401, "RepoNotFound")
            match = API.match(self.path) or FILE.match(self.path)
            folder = hub.repositories.get(match["repository"]) if match else None
            if match is None or folder is None:
                return self._error(401, "RepoNotFound")
            if match["revision"] not in (None, "main", COMMIT):
                return self._error(404, "RevisionNotFound")
            if "path" in match.groupdict():
                return self._file(folder / match["path"], body)
            return self._json(_tree(folder) if match["verb"] == "tree" else _information(match["repository"], folder))

        def _error(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _json(self, content: object) -> None:
            self._body(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, True)

        def _file(self, path: Path, body: bool) -> None:
            if not path.is_file():
                return self._error(404, "EntryNotFound")
            data = path.read_bytes()
            headers = {"ETag": f'"{_hash(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if start is None:
                return self._body(200, data, headers, body)
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return self._body(206, data[first:], headers, body)

        def _body(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    return Handler


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _information(repository: str, folder: Path) -> dict[str, object]:
    siblings = [{"rfilename": str(path.relative_to(folder))} for path in _files(folder)]
    return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}


def _tree(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "type": "file",
            "path": str(path.relative_to(folder)),
            "size": path.stat().st_size,
            "oid": _hash(path.read_bytes()),
        }
        for path in _files(folder)
    ]


def _hash(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
