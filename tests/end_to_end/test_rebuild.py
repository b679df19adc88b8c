"""How long a killed rank costs with us, and with a plain RayJob that KubeRay builds anew by its backoffLimit."""

from __future__ import annotations

import json
import time
from statistics import median

import pytest

from end_to_end.installation import FOLDER
from end_to_end.manifests import job
from end_to_end.misfortunes import signal_rank_in, suspend, until_no_pods
from end_to_end.tenant import Object, Tenant

EVERY = 5
ROUNDS = 3
OURS = ("finetune.dev/", "app.kubernetes.io/")
MOST = 0.5
"""Our time as a part of the peer's, median against median."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]


def test_a_killed_rank_trains_on_in_half_the_time_of_a_rebuild(tenant: Tenant) -> None:
    name = tenant.apply(job(tenant.name, "ours", steps=100_000, every=EVERY, failurePolicy={"maxRestarts": ROUNDS}))
    until_commit(tenant, name, 0)
    ours = [recovery(tenant, name, tenant.pods(name, "worker")) for _ in range(ROUNDS)]
    peer = as_plain_ray_job(tenant, name, backoff=ROUNDS)
    suspend(tenant, name, True)
    tenant.until_phase(name, "Suspended")
    until_no_pods(tenant, name)

    tenant.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": peer}))
    until_commit(tenant, "plain", 0)
    theirs = [recovery(tenant, "plain", workers_of_plain(tenant)) for _ in range(ROUNDS)]
    tenant.kubectl("delete", "rayjob", "plain")
    ratio = median(ours) / median(theirs)
    measured = {"ours": ours, "RayJob backoffLimit": theirs, "ratio": ratio}
    (FOLDER / "rebuild.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
    print(measured)
    assert ratio <= MOST


def recovery(tenant: Tenant, name: str, workers: list[Object]) -> float:
    """Seconds from the death of a rank until there is a commit of a step that was in none before."""
    newest, begun = tenant.commits(name)[-1], time.monotonic()
    signal_rank_in(tenant, workers[0]["metadata"]["name"])
    until_commit(tenant, name, newest + EVERY)  # one may have been on its way
    seconds = round(time.monotonic() - begun, 1)
    until_commit(tenant, name, newest + 4 * EVERY)
    return seconds


def until_commit(tenant: Tenant, name: str, step: int, seconds: float = 300) -> None:
    """Wait for a commit of a later step."""
    deadline = time.monotonic() + seconds
    while max(tenant.commits(name), default=0) <= step:
        if time.monotonic() > deadline:
            raise AssertionError(f"{name}: no commit after step {step} within {seconds:.0f} s")
        time.sleep(0.25)


def workers_of_plain(tenant: Tenant) -> list[Object]:
    """The worker pods of the plain RayJob, those that are not on their way out."""
    words = ("get", "pods", "-l", "ray.io/node-type=worker", "-o", "json")
    found: list[Object] = json.loads(tenant.kubectl(*words))["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def as_plain_ray_job(tenant: Tenant, name: str, backoff: int) -> list[Object]:
    """The objects of a job's first attempt as somebody without us would write them: KubeRay alone starts again."""
    ray_job, config = (
        json.loads(tenant.kubectl("get", kind, "-l", f"finetune.dev/job={name}", "-o", "json"))["items"][0]
        for kind in ("rayjob", "configmap")
    )
    manifest = json.loads(config["data"]["job.json"])
    manifest["spec"]["failurePolicy"]["maxRestarts"] = 0
    manifest["spec"]["checkpoint"]["uri"] = f"s3://{tenant.name}/plain/checkpoints"
    data = config["data"] | {"job.json": json.dumps(manifest)}
    text = json.dumps(ray_job["spec"]).replace(config["metadata"]["name"], "plain")
    spec = without_us(json.loads(text)) | {"backoffLimit": backoff}
    spec.pop("jobId", None)  # one id per RayCluster
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain"}, "data": data},
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "plain"}, "spec": spec},
    ]


def without_us(spec: Object) -> Object:
    """The spec of a RayJob whose pods report to nobody and belong to no job of ours."""
    cluster = spec["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = group["template"]
        labels = template["metadata"]["labels"]
        template["metadata"]["labels"] = {key: value for key, value in labels.items() if not key.startswith(OURS)}
        for container in template["spec"]["containers"]:
            container.pop("lifecycle", None)
            container["env"] = [one for one in container["env"] if not one["name"].startswith("FINETUNE_PROGRESS")]
    return spec
