"""Folders and one Ray for all launcher tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer.launch.folders import STAGING, STATE_DIR, WORKDIR
from launch_job import TARGETS


@pytest.fixture(scope="session", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the runs' folders in the session's own, and let ranks import the targets."""
    base = tmp_path_factory.mktemp("launch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE_DIR, str(base / "state"))
        patch.setenv(WORKDIR, str(base / "work"))
        patch.setenv(STAGING, str(base / "staging"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TARGETS), os.environ.get("PYTHONPATH")])))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-this-test")
        yield base


@pytest.fixture(scope="package")
def ray_here(folders: Path) -> Iterator[None]:
    """A private Ray for all tests here, started as `finetune run` starts it; idle it takes a tenth of a core."""
    from finetune_trainer.launch.machine import Machine
    from finetune_trainer.launch.ray_environment import configure

    configure(os.environ, local=True)
    from finetune_trainer.launch.ray_cluster import cluster

    with cluster(None, Machine(cpus=2, gpus=0)):
        yield
