"""Definitions are renewed before the operator is: their defaults appear in jobs that run already."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_fixtures import OUR_CRDS
from control_plane import ControlPlane, serving
from finetune_operator.api.job import read_job
from finetune_operator.crd.documents import job_crd
from finetune_operator.kube.resources import JOBS, REVISIONS
from finetune_operator.render.names import child_name
from finetune_operator.render.support import owned
from player import Run, loses_its_node, succeeds
from stage import Stage, on_stage

RUNTIME = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneRuntime", "metadata": {"name": "default"}}


@pytest.fixture
def own_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane whose definitions no other test needs."""
    with serving(tmp_path / "plane", [OUR_CRDS]) as plane:
        plane.kubectl("apply", "-f", "-", input=json.dumps(RUNTIME | {"spec": {"image": "registry/trainer:1"}}))
        yield plane


def renew(plane: ControlPlane) -> None:
    """Install the definition of a job with one more field, which has a default."""
    document = job_crd()
    schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    schema["spec"]["properties"]["training"]["properties"]["lookahead"] = {"type": "integer", "default": 1}
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(document))


async def keep_more(stage: Stage) -> None:
    """Let what was kept of the runtime be what a newer operator would have kept of it."""
    (kept,) = [one for one in await stage.children() if one["kind"] == REVISIONS.kind]
    metadata = {name: kept["metadata"][name] for name in ("name", "namespace", "labels", "ownerReferences")}
    await stage.client.delete(REVISIONS, metadata["namespace"], metadata["name"])
    data = kept["data"] | {"cooling": "Liquid"}
    await stage.client.create(REVISIONS, {**kept, "metadata": metadata, "data": data})


def test_jobs_that_have_started_go_on_and_new_ones_name_the_field(own_plane: ControlPlane) -> None:
    renewed = asyncio.Event()

    async def first(run: Run) -> None:
        await renewed.wait()
        await loses_its_node(run)

    async def script(stage: Stage) -> None:
        await stage.apply("old")
        await stage.player.until(lambda: stage.player.played, "its first attempt")
        await keep_more(stage)
        await asyncio.to_thread(renew, own_plane)
        async with asyncio.timeout(20):
            while "lookahead" not in (await stage.client.get(JOBS, "default", "old"))["spec"]["training"]:
                await asyncio.sleep(0.05)
        await stage.replica.stop()  # a watch from before shows objects without the field for a while
        stage.replica.start()
        renewed.set()
        await stage.player.phase_is("old", "Succeeded")
        attempts = (await stage.outcome("old"))["attempts"]
        assert attempts == [(1, "Failed", "NodeLost"), (2, "Succeeded", "Succeeded")]
        await stage.apply("new")
        status = await stage.player.until(lambda: (stage.player.job("new") or {}).get("status"), "it is refused")
        assert status["phase"] == "Pending"
        (admitted,) = status["conditions"]
        assert (admitted["type"], admitted["status"]) == ("Admitted", "False")
        assert admitted["message"].startswith("spec.training.lookahead: is in the definitions and not known to this")

    on_stage(own_plane, "default", script, first, succeeds)


def test_a_job_starts_on_what_a_newer_operator_kept_before_it_ended(own_plane: ControlPlane) -> None:
    async def script(stage: Stage) -> None:
        await stage.replica.stop()
        job = read_job(await stage.apply("met"))
        kept = {"apiVersion": REVISIONS.api_version, "kind": REVISIONS.kind, "revision": 1}
        metadata = owned(job, child_name(job.name, job.uid))
        data = {"image": "registry/trainer:1", "cooling": "Liquid"}
        await stage.client.create(REVISIONS, {**kept, "metadata": metadata, "data": data})
        stage.replica.start()
        await stage.player.phase_is("met", "Succeeded")

    on_stage(own_plane, "default", script, succeeds)
