"""Builds the operator's image on this machine without a registry: buildah, on a base of Debian's packages.

    python tools/operator_image.py      prints the archive's path, for `docker load` or `kind load image-archive`

Base and layers are kept in the user's cache, the archive under a hash of all that goes into it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import debian
from cache import cache_root, locked

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = Path("images/operator/Dockerfile")
INPUTS = (
    "constraints.txt",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "images/operator",
    "images/requirements.py",
    ".dockerignore",
)
SOURCES = ("operator/finetune_operator", "trainer/finetune_trainer")
NAME = "localhost/finetune-operator:dev"
"""A full name: containerd looks a short one up under a default registry."""

BASE = "localhost/debian-python:bookworm"
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
TOOLS = ("buildah", "mmdebstrap")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
KEPT = 3
"""Archives that are kept, of the newest states of the sources."""


class CannotBuild(RuntimeError):
    """This machine cannot build images; the message says what it lacks."""


def operator_image() -> Path:
    """Return the image as a docker archive, building it first if this state of the sources has not been built.

    Raises CannotBuild where the tools are missing, CalledProcessError when a build fails.
    """
    folder = cache_root() / "images"
    target = folder / f"operator-{inputs_key(ROOT)}.tar"
    if target.exists():
        return target
    with locked(target):
        if not target.exists():
            fetch_tools()
            begun = time.monotonic()
            _say("building the operator's image")
            _build(folder, target)
            _say(f"built {target.name} in {time.monotonic() - begun:.0f} s, {target.stat().st_size / 1e6:.0f} MB")
            for old in sorted(folder.glob("operator-*.tar"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
                old.unlink()
    return target


def inputs_key(root: Path) -> str:
    """The first 12 hex digits of the SHA-256 over names and bytes of everything that goes into the image."""
    digest = hashlib.sha256(f"{SUITE} {PACKAGES} {LEFT_OUT}".encode())
    for path in _files(root):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _files(root: Path) -> Iterator[Path]:
    for name in (*INPUTS, *SOURCES):
        path = root / name
        found = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (one for one in found if one.is_file() and "__pycache__" not in one.parts)


def fetch_tools() -> None:
    """Install what builds images, where that is missing and apt-get is there; CannotBuild otherwise."""
    if os.geteuid() != 0:
        raise CannotBuild(
            "building the operator's image needs root here, or use docker with images/operator/Dockerfile"
        )
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking and not debian.can_install():
        raise CannotBuild(f"install {' and '.join(lacking)}, or use docker with {DOCKERFILE}")
    if lacking:
        debian.install(lacking, CannotBuild)


def _build(folder: Path, target: Path) -> None:
    build = ["bud", "--isolation=chroot", "--layers", "--timestamp=0", f"--build-arg=BASE={_base(folder)}"]
    if CERTIFICATES.exists():  # a company's own, for the way to its package index; nothing of it is kept
        build += [f"--volume={CERTIFICATES}:{CERTIFICATES}:ro", f"--build-arg=PIP_CERT={CERTIFICATES}"]
    if index := os.environ.get("PIP_INDEX_URL"):
        build += [f"--build-arg=PIP_INDEX_URL={index}"]
    _buildah(folder, *build, f"--file={ROOT / DOCKERFILE}", f"--tag={NAME}", str(ROOT))
    half = target.with_suffix(".half")
    half.unlink(missing_ok=True)
    _buildah(folder, "push", "--quiet", NAME, f"docker-archive:{half}:{NAME}")
    half.rename(target)


def _base(folder: Path) -> str:
    """The name of the base, made of Debian's packages if it is not there yet."""
    if _buildah(folder, "images", "--quiet", BASE, check=False).strip():
        return BASE
    tar = folder / "base.tar"
    leave = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    _run("mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(PACKAGES)}", *leave, SUITE, str(tar))
    container = _buildah(folder, "from", "scratch").strip()
    _buildah(folder, "add", "--quiet", container, str(tar), "/")
    _buildah(folder, "commit", "--quiet", "--rm", container, BASE)
    tar.unlink()
    return BASE


def _buildah(folder: Path, *words: str, check: bool = True) -> str:
    store = [f"--root={folder / 'store'}", f"--runroot={folder / 'run'}", "--storage-driver=overlay"]
    return _run("buildah", *store, *words, check=check)


def _run(*command: str, check: bool = True) -> str:
    """Run a command and return its output; what it says when it fails goes to stderr."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        done.check_returncode()
    return done.stdout


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(operator_image())
