"""A control plane of the scenarios' own: the operator works on all namespaces, so nobody else's jobs may be there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from control_plane import ControlPlane, serving
from running import quick

CRDS = "charts/finetune-operator/crds"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """As everywhere, with a FineTuneRuntime `default`."""
    with serving(tmp_path_factory.mktemp("scenarios"), [pytestconfig.rootpath / CRDS]) as plane:
        body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneRuntime", "metadata": {"name": "default"}}
        plane.kubectl("apply", "-f", "-", input=json.dumps(body | {"spec": {"image": "registry/trainer:1"}}))
        yield plane


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
