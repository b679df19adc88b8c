"""Kueue's queue as a job shows it: with Kueue's own definition of a Workload, and a test that writes what Kueue does.

RayJobs with a queue are suspended as they are made, by a policy in the API server in place of Kueue's webhook.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from cluster_programs import kueue_crds
from control_plane import ControlPlane
from finetune_operator import kueue
from finetune_operator.api.job import QUEUE
from finetune_operator.kube import Object
from finetune_operator.kube.resources import PODS, RAYJOBS, WORKLOADS, Resource
from player import Plot, succeeds, waits
from refusals import try_ray_job
from stage import Stage, staged

ADMISSION = "admissionregistration.k8s.io"
POLICIES = Resource(ADMISSION, "v1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy", namespaced=False)
BINDINGS = Resource(ADMISSION, "v1", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", False)
NO_ROOM = "couldn't assign flavors to pod set head: insufficient unused quota for cpu in flavor default, 2 more needed"
FOR_ANOTHER = "Preempted to accommodate a workload (UID: 6f1d) due to prioritization in the ClusterQueue"
SINCE = "2026-11-27T12:00:00Z"


@pytest.fixture
def workloads(control_plane: ControlPlane) -> Iterator[None]:
    """Kueue's API, as far as the operator reads it."""
    control_plane.install_crds(*kueue_crds())
    yield
    control_plane.kubectl("delete", *(f"--filename={path}" for path in kueue_crds()))


class Kueue:
    """Does in one namespace what Kueue does."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.namespace = stage, stage.namespace

    async def suspend_new(self) -> None:
        """Have each new RayJob with a queue suspended, and return when the API server does so."""
        name = f"kueue-{self.namespace}"
        here = {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}
        queued = {"matchExpressions": [{"key": QUEUE, "operator": "Exists"}]}
        rule = {"apiGroups": ["ray.io"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["rayjobs"]}
        suspend = {"expression": '[JSONPatch{op: "add", path: "/spec/suspend", value: true}]'}
        spec = {
            "matchConstraints": {"namespaceSelector": here, "objectSelector": queued, "resourceRules": [rule]},
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": suspend}],
        }
        await self.stage.client.create(POLICIES, _object(POLICIES, name, spec=spec))
        await self.stage.client.create(BINDINGS, _object(BINDINGS, name, spec={"policyName": name}))
        async with asyncio.timeout(20):
            while (made := await try_ray_job(self.stage, self.namespace, **{QUEUE: "team-a"})) is not None:
                if made["spec"].get("suspend"):
                    return
                await asyncio.sleep(0.05)

    async def allow_new(self) -> None:
        """Take that back: policies belong to no namespace."""
        for kind in (BINDINGS, POLICIES):
            await self.stage.client.delete(kind, None, f"kueue-{self.namespace}")

    async def ray_job(self, number: int) -> Object:
        """The RayJob of an attempt, once it is there and held back."""

        def held() -> Object | None:
            found = self.stage.player.ray_jobs.store.all()
            named = [one for one in found if one["metadata"]["name"].endswith(f"-{number}")]
            return named[0] if named and named[0]["spec"].get("suspend") else None

        return await self.stage.player.until(held, f"attempt {number} is suspended")

    async def queue_up(self, ray_job: Object) -> None:
        """Make the Workload of a RayJob."""
        metadata = ray_job["metadata"]
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": metadata["name"], "uid": metadata["uid"]}
        head = {"name": "head", "count": 1, "template": {"spec": {"containers": [{"name": "ray", "image": "x"}]}}}
        body = _object(WORKLOADS, metadata["name"], spec={"queueName": "team-a", "podSets": [head]})
        body["metadata"] |= {"namespace": self.namespace, "ownerReferences": [owner | {"controller": True}]}
        await self.stage.client.create(WORKLOADS, body)

    async def say(self, ray_job: Object, *conditions: tuple[str, str, str, str]) -> None:
        """Write the conditions of a Workload: type, status, reason, message."""
        words = ("type", "status", "reason", "message")
        said = [dict(zip(words, one, strict=True)) | {"lastTransitionTime": SINCE} for one in conditions]
        name = ray_job["metadata"]["name"]
        await self.stage.player.set_status(WORKLOADS, self.namespace, name, {"conditions": said})

    async def suspend(self, ray_job: Object, *, suspended: bool) -> None:
        """Hold a RayJob back, or let it in; KubeRay, which the test plays too, then deletes the pods."""
        name = ray_job["metadata"]["name"]
        await self.stage.client.patch(RAYJOBS, self.namespace, name, {"spec": {"suspend": suspended}})
        for pod in self.stage.player.pods.store.all() if suspended else ():
            await self.stage.client.delete(PODS, self.namespace, pod["metadata"]["name"])


def with_kueue(
    plane: ControlPlane, namespace: str, script: Callable[[Stage, Kueue], Awaitable[None]], *plots: Plot
) -> None:
    """Run a script with an operator that is told to follow Kueue."""

    async def main() -> None:
        async with staged(plane, namespace, *plots) as stage:
            queue = Kueue(stage)
            await queue.suspend_new()
            stage.replica.kueue = True
            stage.replica.start()
            try:
                await script(stage, queue)
            finally:
                await queue.allow_new()

    asyncio.run(asyncio.wait_for(main(), 120))


def _object(kind: Resource, name: str, **members: Any) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, **members}


def shown(stage: Stage) -> tuple[str, str, str, str]:
    """What the job says of its admission: status, reason, message, and why it waits."""
    status = (stage.player.job("bot") or {}).get("status") or {}
    found = {one["type"]: one for one in status.get("conditions") or ()}.get("Admitted", {})
    why = (status.get("queue") or {}).get("reason", "")
    return found.get("status", ""), found.get("reason", ""), found.get("message", ""), why


async def shows(stage: Stage, *expected: str) -> None:
    """Wait until the job says just this of its admission."""
    try:
        await stage.player.until(lambda: shown(stage) == expected, str(expected))
    except AssertionError:
        assert shown(stage) == expected
        raise


def attempts(stage: Stage) -> Sequence[Object]:
    """The job's attempts as its status has them."""
    found: Sequence[Object] = (stage.player.job("bot") or {})["status"]["attempts"]
    return found


@pytest.mark.usefixtures("workloads")
def test_a_queued_job_says_what_kueue_says_and_a_preempted_one_queues_again(
    control_plane: ControlPlane, namespace: str
) -> None:
    async def script(stage: Stage, queue: Kueue) -> None:
        await stage.apply(queueName="team-a")
        first = await queue.ray_job(1)
        await shows(stage, "False", "Queued", "waits in queue team-a for quota", "waits for quota")
        await queue.queue_up(first)
        await queue.say(first, ("QuotaReserved", "False", "Pending", NO_ROOM))
        await shows(stage, "False", "Queued", f"queue team-a: Pending: {NO_ROOM}", f"Pending: {NO_ROOM}")
        assert stage.player.phase("bot") == "Queued"
        assert "Pending: couldn't assign" in control_plane.kubectl("get", "finetunejob", "bot", namespace=namespace)

        reserved = ("QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue team-a")
        await queue.say(
            first, reserved, ("Admitted", "False", "UnsatisfiedAdmissionChecks", "not all checks are ready")
        )
        why = "UnsatisfiedAdmissionChecks: not all checks are ready"
        await shows(stage, "False", "Queued", f"queue team-a: {why}", why)
        await queue.say(first, reserved, ("Admitted", "True", "Admitted", "The workload is admitted"))
        await queue.suspend(first, suspended=False)
        await stage.player.phase_is("bot", "Training")
        assert shown(stage) == ("True", "Admitted", "attempt 1 was admitted by queue team-a", "")

        await queue.say(first, reserved, ("Evicted", "True", "Preempted", FOR_ANOTHER))
        await queue.suspend(first, suspended=True)
        second = await queue.ray_job(2)
        await stage.player.phase_is("bot", "Queued")
        ended = attempts(stage)[0]
        assert (ended["outcome"], ended["reason"]) == ("Failed", "Preempted")
        assert ended["message"] == f"queue team-a took the quota back: Preempted: {FOR_ANOTHER}"
        await queue.suspend(second, suspended=False)
        await stage.player.phase_is("bot", "Succeeded")

    with_kueue(control_plane, namespace, script, waits, succeeds)


def test_kueue_may_be_missing_and_is_found_when_it_comes(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kueue, "LOOK_AGAIN", 0.2)

    async def script(stage: Stage, queue: Kueue) -> None:
        await stage.apply(queueName="team-a")
        ray_job = await queue.ray_job(1)
        await shows(stage, "False", "Queued", "waits in queue team-a for quota", "waits for quota")
        assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []
        await asyncio.to_thread(control_plane.install_crds, *kueue_crds())
        await queue.queue_up(ray_job)
        await queue.say(ray_job, ("QuotaReserved", "False", "Inadmissible", "LocalQueue team-a doesn't exist"))
        why = "Inadmissible: LocalQueue team-a doesn't exist"
        await shows(stage, "False", "Queued", f"queue team-a: {why}", why)

    try:
        with_kueue(control_plane, namespace, script, waits)
    finally:
        control_plane.kubectl("delete", "--ignore-not-found", *(f"--filename={path}" for path in kueue_crds()))
