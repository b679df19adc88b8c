"""Labels are anybody's to write: what others label as a job's changes nothing of the job."""

from __future__ import annotations

import uuid

import pytest

from control_plane import ControlPlane
from finetune_operator.api.job import ATTEMPT, JOB_UID
from finetune_operator.kube import Object
from finetune_operator.kube.resources import RAYJOBS
from finetune_operator.observe import belonging, controlled
from player import waits
from stage import Stage, on_stage


def claimed(ray_job: Object, namespace: str) -> Object:
    """A RayJob that says to be a later attempt of another's job."""
    labels = ray_job["metadata"]["labels"] | {ATTEMPT: "50"}
    metadata = {"name": "evil", "namespace": namespace, "labels": labels}
    return {key: ray_job[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": metadata}


def test_a_ray_job_of_another_namespace_that_wears_the_labels_of_a_job_is_not_taken_for_its_attempt(
    control_plane: ControlPlane, namespace: str
) -> None:
    other = f"other-{uuid.uuid4().hex[:10]}"

    async def script(stage: Stage) -> None:
        await stage.apply()
        await stage.player.phase_is("bot", "Training")
        (own,) = stage.player.ray_jobs.store.all()
        await stage.client.create(RAYJOBS, claimed(own, other))
        over = {"status": {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}}
        await stage.client.patch(RAYJOBS, other, "evil", over, subresource="status")
        await stage.change(activeDeadlineSeconds=86_400)  # a change that the operator must look at
        before = stage.player.job("bot")
        assert before is not None
        found = await stage.player.until(lambda: _observed(stage, before["metadata"]["generation"]), "a look")
        assert found["status"]["phase"] == "Training"
        assert [one["number"] for one in found["status"]["attempts"]] == [1]
        assert stage.player.ray_jobs.store.get(*_key(own)) is not None

    control_plane.kubectl("create", "namespace", other)
    on_stage(control_plane, namespace, script, waits)
    control_plane.kubectl("delete", "namespace", other, "--wait=false")


@pytest.mark.parametrize(
    "owners", [None, [{"uid": "u-2", "controller": True}], [{"uid": "u-1"}]], ids=["nobody", "another job", "an owner"]
)
def test_a_ray_job_is_a_jobs_only_if_the_job_controls_it(owners: list[Object] | None) -> None:
    metadata = {"namespace": "team-a", "labels": {JOB_UID: "u-1"}, "ownerReferences": owners}
    assert controlled({"metadata": metadata}) == []
    mine = metadata | {"ownerReferences": [{"uid": "u-1", "controller": True}]}
    assert controlled({"metadata": mine}) == [belonging("team-a", "u-1")]


def _key(found: Object) -> tuple[str, str]:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _observed(stage: Stage, generation: int) -> Object | None:
    found = stage.player.job("bot")
    if found is None or found["status"].get("observedGeneration", 0) < generation:
        return None
    return found
