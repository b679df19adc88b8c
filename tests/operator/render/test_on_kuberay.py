"""What is rendered, given to a real API server and to KubeRay's real operator, where Pod Security is enforced."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from child import Child
from control_plane import ControlPlane, KubectlFailed
from finetune_operator.api.job import JOB_UID, ROLE, Job, read_job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.render import objects
from finetune_trainer.spec.yaml_reader import read_yaml
from generate import EXAMPLES
from render_example import OPERATOR, job_of, runtime_of
from rendering import EXAMPLES as FOLDER
from rendering import Object

DEFAULT = runtime_of(FOLDER / "runtimes" / "default.yaml").spec
H100 = runtime_of(FOLDER / "runtimes" / "h100.yaml").spec
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
PATIENCE = 30.0
T = TypeVar("T")


def until(look: Callable[[], T | None]) -> T:
    """Look until there is something to see."""
    pause, end = threading.Event(), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if (found := look()) is not None:
            return found
        pause.wait(0.1)
    raise AssertionError(f"not within {PATIENCE} s: {look}")


@pytest.mark.parametrize("runtime", [DEFAULT, H100], ids=["default", "h100"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_api_server_knows_every_field(
    control_plane: ControlPlane, namespace: str, name: str, runtime: RuntimeSpec
) -> None:
    """Strict validation refuses unknown and repeated fields, which would be dropped silently otherwise."""
    made = objects(job_of(FOLDER / f"{name}.yaml"), runtime, 1, OPERATOR)
    for one in made:
        one["metadata"] |= {"namespace": namespace}
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    answer = control_plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=text)
    assert answer.count("created (server dry run)") == len(made)


class Cluster:
    """A job's objects in a namespace that enforces Pod Security `restricted`."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane, self.namespace = plane, namespace
        plane.kubectl("label", "namespace", namespace, RESTRICTED)

    def apply(self, name: str) -> Job:
        """Apply a manifest of examples/ as a tenant does."""
        document = read_yaml((FOLDER / f"{name}.yaml").read_text())
        document["metadata"]["namespace"] = self.namespace
        return read_job(self.create(document))

    def create(self, body: Object) -> Object:
        found = self._plane.kubectl("create", "-o", "json", "-f", "-", input=json.dumps(body))
        return dict(json.loads(found))

    def all(self, kinds: str, selector: str = "") -> list[Object]:
        found = self.kubectl("get", kinds, "-o", "json", f"--selector={selector}")
        return list(json.loads(found)["items"])

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self._plane.kubectl(*arguments, namespace=self.namespace, input=input)

    def pods(self, job: Job, count: int) -> list[Object] | None:
        """The pods of a job, once there are so many."""
        found = self.all("pods", f"{JOB_UID}={job.uid}")
        return found if len(found) == count else None

    def run(self, pod: Object) -> None:
        """Say that a pod runs and is ready, as its kubelet would."""
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        patch = json.dumps({"status": status})
        self.kubectl("patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge", "-p", patch)

    def evict(self, pod: Object) -> None:
        """Ask for a pod as `kubectl drain` does."""
        name = pod["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": self.namespace}}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/eviction"
        self._plane.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(body))


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, kuberay_controller: Child) -> Iterator[Cluster]:
    yield Cluster(control_plane, namespace)


@pytest.mark.usefixtures("kuberay_controller")
def test_kuberay_makes_the_pods_and_all_goes_with_the_job(cluster: Cluster) -> None:
    job = cluster.apply("full-70b-zero3")
    made = objects(job, DEFAULT, 1, OPERATOR)
    for body in made:
        cluster.create(body)
    pods = until(lambda: cluster.pods(job, 5))
    assert sorted(pod["metadata"]["labels"][ROLE] for pod in pods) == ["head", *["worker"] * 4]
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["lifecycle"]["preStop"]["exec"]["command"][-3] == made[-1]["metadata"]["name"]
        assert container["readinessProbe"]["httpGet"]["port"] == 52365
        assert "RAY_AUTH_TOKEN" in {one["name"] for one in container["env"]}
        head = pod["metadata"]["labels"][ROLE] == "head"
        (command,) = container["args"]
        for flag in ["--head", "--num-cpus=0", "--num-gpus=0"] if head else ["--num-cpus=96", "--num-gpus=8"]:
            assert flag in command
        assert container["resources"]["limits"].get("nvidia.com/gpu") == (None if head else "8")
    (ray_job,) = cluster.all("rayjobs")
    assert ray_job["status"]["jobDeploymentStatus"] == "Initializing"
    assert ray_job["status"]["jobId"] == made[-1]["metadata"]["name"]
    (ray_cluster,) = cluster.all("rayclusters")
    assert ray_cluster["metadata"]["annotations"]["ray.io/disable-provisioned-head-restart"] == "true"

    cluster.kubectl("delete", "finetunejob", job.name)
    kinds = "rayjobs,rayclusters,pods,services,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,secrets"
    until(lambda: None if [one for one in cluster.all(kinds) if not of_the_namespace(one)] else True)


def of_the_namespace(found: Object) -> bool:
    return found["metadata"]["name"] in ("default", "kube-root-ca.crt")


@pytest.mark.usefixtures("kuberay_controller")
def test_a_drain_gets_one_pod_of_a_complete_cluster_and_none_of_one_that_starts(cluster: Cluster) -> None:
    job = cluster.apply("full-70b-zero3")
    for body in objects(job, DEFAULT, 1, OPERATOR):
        cluster.create(body)
    pods = until(lambda: cluster.pods(job, 5))

    def allowed() -> int:
        (budget,) = cluster.all("poddisruptionbudgets")
        return int(budget.get("status", {}).get("disruptionsAllowed", -1))

    for pod in pods[:-1]:
        cluster.run(pod)
    until(lambda: healthy(cluster, 4))
    assert allowed() == 0
    with pytest.raises(KubectlFailed, match="disruption budget"):
        cluster.evict(pods[0])
    cluster.run(pods[-1])
    until(lambda: True if allowed() == 1 else None)
    cluster.evict(pods[0])
    with pytest.raises(KubectlFailed, match="disruption budget"):
        cluster.evict(pods[1])


def healthy(cluster: Cluster, count: int) -> bool | None:
    (budget,) = cluster.all("poddisruptionbudgets")
    return True if budget.get("status", {}).get("currentHealthy") == count else None
