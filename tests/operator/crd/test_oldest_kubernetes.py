"""The oldest Kubernetes that we support takes our CRDs: its limits on the cost of CEL rules are not today's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import go_build
from finetune_operator.crd.documents import SUPPORTED_SINCE

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "tools" / "oldest_kubernetes"
CRDS = sorted((ROOT / "charts" / "finetune-operator" / "crds").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.timeout(1200)  # built on the first run
def test_the_oldest_supported_kubernetes_takes_the_crds() -> None:
    checked = subprocess.run([go_build.binary(SOURCE), *CRDS], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert len(CRDS) == 2


def test_the_supported_version_is_the_one_that_is_checked() -> None:
    assert f"k8s.io/apiextensions-apiserver v0.{SUPPORTED_SINCE.partition('.')[2]}." in (SOURCE / "go.mod").read_text()
