"""Jobs live from apply to their end: the real operator on a real API server, with KubeRay and kubelets played."""

from __future__ import annotations

import pytest

from control_plane import ControlPlane
from finetune_operator.kube import Object
from lives import LIVES
from player import trains_until_stopped
from stage import Stage, on_stage

KEPT = ["ConfigMap", "ControllerRevision", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"]


def live(plane: ControlPlane, namespace: str, name: str) -> Object:
    """Play a life undisturbed and return what it came to."""
    found: Object = {}

    async def script(stage: Stage) -> None:
        await LIVES[name].play(stage)
        found.update(await stage.outcome())
        found["status"] = (stage.player.job("bot") or {}).get("status")

    on_stage(plane, namespace, script, *LIVES[name].plots)
    return found


def test_a_job_trains_and_succeeds_and_gives_its_cluster_back(control_plane: ControlPlane, namespace: str) -> None:
    found = live(control_plane, namespace, "succeed")
    assert found["attempts"] == [(1, "Succeeded", "Succeeded")]
    assert ("Complete", "True", "Succeeded") in found["conditions"]
    assert [kind for kind, _ in found["children"]] == KEPT
    status = found["status"]
    assert status["output"]["uri"] == "s3://models/x"
    assert (status["progress"]["step"], status["checkpoint"]["step"]) == (5, 5)


def test_a_lost_node_costs_an_attempt_and_the_next_one_succeeds(control_plane: ControlPlane, namespace: str) -> None:
    found = live(control_plane, namespace, "retry")
    assert found["attempts"] == [(1, "Failed", "NodeLost"), (2, "Succeeded", "Succeeded")]
    assert found["failures"] == [{"reason": "NodeLost", "count": 1}]


def test_a_mistake_of_the_user_fails_the_job_without_another_try(control_plane: ControlPlane, namespace: str) -> None:
    found = live(control_plane, namespace, "fail")
    assert found["attempts"] == [(1, "Failed", "UserError")]
    (failed,) = [one for one in found["status"]["conditions"] if one["type"] == "Failed"]
    assert (failed["status"], failed["reason"]) == ("True", "UserError")
    assert "there is no such object" in failed["message"]


def test_a_suspended_job_commits_and_goes_on_when_it_is_resumed(control_plane: ControlPlane, namespace: str) -> None:
    found = live(control_plane, namespace, "suspend")
    assert found["attempts"] == [(1, "Stopped", "Suspended"), (2, "Succeeded", "Succeeded")]
    assert ("Suspended", "False", "Succeeded") in found["conditions"]
    assert (found["failures"], found["stop"]) == ([], None)


@pytest.mark.parametrize("name", ["delete", "time-to-live"])
def test_nothing_is_left_of_a_job_that_goes(control_plane: ControlPlane, namespace: str, name: str) -> None:
    found = live(control_plane, namespace, name)
    assert (found["job"], found["children"]) == (False, [])


def test_a_deleted_job_stays_until_its_pods_are_gone(control_plane: ControlPlane, namespace: str) -> None:
    async def script(stage: Stage) -> None:
        await stage.apply()
        await stage.player.phase_is("bot", "Training")
        stage.player.hold_pods = True
        await stage.delete()
        pods = stage.player.pods.store
        await stage.player.until(
            lambda: pods.all() and all("deletionTimestamp" in one["metadata"] for one in pods.all()), "pods end"
        )
        found = await stage.player.until(lambda: stage.player.job("bot"))
        assert found["metadata"]["finalizers"] == ["finetune.dev/graceful-stop"]
        await stage.player.release_pods()
        await stage.gone()

    on_stage(control_plane, namespace, script, trains_until_stopped)
