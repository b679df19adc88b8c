"""Every line that the operator logs about a job names it, and none repeats what its run printed."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from control_plane import ControlPlane
from finetune_operator import application
from finetune_operator.core.logs import JsonFormatter
from finetune_operator.policy.actions import (
    Action,
    AddFinalizer,
    CreateAttempt,
    DeleteJob,
    DeleteRayJob,
    ForceDeletePod,
    RemoveFinalizer,
)
from kube_faults import refuse
from kube_proxy import KubeProxy
from lives import LIVES
from looks import pod, ray_job
from stage import Stage, on_stage

PRINTED = "stopped at step"
ACTIONS: tuple[Action, ...] = (
    AddFinalizer(),
    RemoveFinalizer(),
    CreateAttempt(2),
    DeleteRayJob(ray_job(message=PRINTED)),
    ForceDeletePod(pod(message=PRINTED)),
    DeleteJob(),
)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the operator logs, as its process writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger(application.__name__.partition(".")[0])
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield stream
    logger.removeHandler(handler)
    logger.setLevel("NOTSET")


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_an_action_as_text_names_objects_and_repeats_nothing_that_a_run_printed(action: Action) -> None:
    assert PRINTED not in str(action)
    assert "(" not in str(action)


def test_the_lines_about_a_job_name_it_its_generation_and_its_attempt(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy, log: io.StringIO
) -> None:
    async def script(stage: Stage) -> None:
        proxy.inject("create", refuse(500), resource="rayjobs")
        await LIVES["suspend"].play(stage)

    on_stage(control_plane, namespace, script, *LIVES["suspend"].plots, kubeconfig=proxy.kubeconfig())
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.getvalue().splitlines()]
    about = [one for one in lines if "job" in one]
    assert all((one["namespace"], one["job"]) == (namespace, "bot") for one in about)
    said = {one["message"]: (one["attempt"], one["generation"]) for one in about}
    assert said["adding the finalizer"] == (None, 1)
    assert said["creating attempt 1"] == (1, 1)
    assert said["creating attempt 2"] == (2, 3)
    (deleted,) = [message for message in said if message.startswith("deleting RayJob bot-") and message.endswith("-1")]
    assert said[deleted] == (1, 2)
    (failed,) = [message for message in said if "again in" in message and "500" in message]
    assert said[failed][1] == 1
    assert PRINTED not in log.getvalue()
