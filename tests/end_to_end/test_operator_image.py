"""The operator's image: who runs in it, what is left out of it, and that the operator starts from its files alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from operator_image import NAME, operator_image

SITE = "opt/finetune/lib/python3.11/site-packages"
HEAVY = {"boto3", "botocore", "deepspeed", "hatchling", "numpy", "pip", "ray", "setuptools", "tomlkit", "torch"}

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.skipif(os.geteuid() != 0, reason="building the image here and chroot need root"),
]


@pytest.fixture(scope="module")
def archive() -> tuple[dict[str, Any], list[str]]:
    """The configuration of the one image in the archive with its tags, and the names of its layers."""
    with tarfile.open(operator_image()) as tar:
        [entry] = json.loads(_read(tar, "manifest.json"))
        return json.loads(_read(tar, entry["Config"])) | {"RepoTags": entry["RepoTags"]}, entry["Layers"]


@pytest.fixture(scope="module")
def root(archive: tuple[dict[str, Any], list[str]]) -> Iterator[Path]:
    """The image's file system, its layers unpacked one over the other; not kept, as pytest's own folders are."""
    with tempfile.TemporaryDirectory() as name, tarfile.open(operator_image()) as tar:
        folder = Path(name)
        folder.chmod(0o755)
        for layer in archive[1]:
            with tarfile.open(fileobj=tar.extractfile(layer)) as files:
                files.extractall(folder, filter="fully_trusted")
        yield folder


def test_the_image_runs_the_operator_as_a_numeric_user_other_than_root(
    archive: tuple[dict[str, Any], list[str]],
) -> None:
    image, _ = archive
    assert image["RepoTags"] == [NAME]
    assert image["config"]["User"] == "65532:65532"
    assert image["config"]["Entrypoint"] == ["python", "-m", "finetune_operator.main"]
    assert "PYTHONDONTWRITEBYTECODE=1" in image["config"]["Env"]
    assert not [one for one in image["config"]["Env"] if one.startswith("PIP_")], "a company's index stays out"


def test_the_image_holds_no_compiler_no_pip_and_nothing_of_the_trainers_weight(root: Path) -> None:
    installed = {path.name for path in (root / SITE).iterdir()}
    assert "finetune_operator" in installed
    assert not installed & HEAVY
    assert not [name for name in ("gcc", "cc", "g++", "pip", "pip3") for _ in root.glob(f"*/**/bin/{name}")]


def test_every_module_of_ours_is_compiled_for_a_read_only_file_system(root: Path) -> None:
    modules = list((root / SITE / "finetune_operator").rglob("*.py"))
    assert len(modules) > 20
    assert not [one for one in modules if not list(one.parent.glob(f"__pycache__/{one.stem}.*.pyc"))]


def test_the_operator_starts_from_the_files_of_the_image_alone(
    archive: tuple[dict[str, Any], list[str]], root: Path
) -> None:
    environment = dict(one.split("=", 1) for one in archive[0]["config"]["Env"])
    environment |= {"HOME": "/", "LC_ALL": "C.UTF-8"}  # as runc sets it for a user whom /etc/passwd does not name
    chroot = shutil.which("chroot") or "/usr/sbin/chroot"
    command = [chroot, "--userspec=65532:65532", str(root), *archive[0]["config"]["Entrypoint"], "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--kuberay-namespace" in done.stdout


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    found = tar.extractfile(name)
    assert found is not None, name
    return found.read()
