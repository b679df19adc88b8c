"""What `finetune doctor` says of each thing that it looks at."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.api.runtime import ConfigMapKeyRef, Gpu, RuntimeStorage
from finetune_operator.crd.documents import crds
from finetune_operator.doctor import installation, storage, tenancy
from finetune_operator.doctor.finding import Finding, Seen, State

Object = dict[str, Any]

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
REFUSED = Seen(refused="get things")
ESTABLISHED = {"conditions": [{"type": "Established", "status": "True"}]}
JOB_CRD = crds()["finetunejobs"]


def deployment(name: str, image: str = "", namespace: str = "system", available: str = "True", **parts: Any) -> Object:
    container = {"image": image, "args": parts.get("args", [])}
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": parts.get("labels", {})},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [container]}}},
        "status": {"availableReplicas": 2, "conditions": [{"type": "Available", "status": available}]},
    }


def node(ready: str = "True", cordoned: bool = False, product: str = "H100", more: Object | None = None) -> Object:
    return {
        "metadata": {"name": "n", "labels": {tenancy.PRODUCT: product}},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "allocatable": {"nvidia.com/gpu": "8"} | (more or {}),
        },
    }


@pytest.mark.parametrize(
    ("version", "state"),
    [("v1.30.0", State.OK), ("v1.36.2+k3s1", State.OK), ("v1.29.9", State.FAILED), ("unknown", State.WARNING)],
)
def test_a_server_that_is_too_old_is_told(version: str, state: State) -> None:
    finding = installation.judge_server("https://there:6443", {"gitVersion": version})
    assert finding.state is state
    assert "https://there:6443" in finding.found and version in finding.found
    assert bool(finding.remedy) == (state is not State.OK)


def test_the_definition_has_to_be_the_one_of_this_version() -> None:
    mine = JOB_CRD | {"status": ESTABLISHED}
    other = deepcopy(mine)
    other["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].pop("suspend")
    judge = installation.judge_crd
    assert judge(JOB_CRD, Seen((mine,))).state is State.OK
    assert judge(JOB_CRD, Seen((other,))) == Finding(
        "CRD finetunejobs.finetune.dev",
        State.FAILED,
        "its schema is not that of this version",
        "helm show crds charts/finetune-operator | kubectl apply --server-side --force-conflicts --filename -",
    )
    assert judge(JOB_CRD, Seen((JOB_CRD,))).found == "it is not established"
    assert judge(JOB_CRD, Seen()).found == "there is none"
    assert judge(JOB_CRD, REFUSED).state is State.WARNING


def test_the_ray_jobs_have_to_be_served_as_v1() -> None:
    def crd(served: bool) -> Seen:
        return Seen(({"spec": {"versions": [{"name": "v1", "served": served}]}, "status": ESTABLISHED},))

    assert installation.judge_ray_crd(crd(True)).state is State.OK
    assert installation.judge_ray_crd(crd(False)).found == "v1 is not served (versions: none)"
    assert installation.judge_ray_crd(Seen()).state is State.FAILED
    assert installation.judge_ray_crd(REFUSED).state is State.WARNING


@pytest.mark.parametrize(
    ("image", "state"),
    [
        ("quay.io/kuberay/operator:v1.6.2", State.OK),
        ("registry:5000/kuberay/operator:2.0.0-rc.1@sha256:abc", State.OK),
        ("quay.io/kuberay/operator:v1.5.1", State.FAILED),
        ("quay.io/kuberay/operator:nightly", State.WARNING),
        ("registry.v1.6:5000/kuberay/operator", State.WARNING),
        ("quay.io/kuberay/operator@sha256:abc", State.WARNING),
    ],
)
def test_the_version_of_kuberay_is_that_of_its_image(image: str, state: State) -> None:
    (finding,) = installation.judge_kuberay(Seen((deployment("kuberay-operator", image),)))
    assert finding.state is state
    assert image in finding.found


def test_kuberay_is_found_by_name_or_label_and_has_to_be_available() -> None:
    image = "kuberay/operator:v1.6.0"
    labelled = deployment("ray", image, labels={"app.kubernetes.io/name": "kuberay"})
    waiting = deployment("kuberay-operator", image, available="False")
    found = installation.judge_kuberay(Seen((deployment("web"), labelled, waiting)))
    assert [(one.state, one.found) for one in found] == [
        (State.OK, f"system/ray is available ({image})"),
        (State.FAILED, "system/kuberay-operator is not available"),
    ]
    assert [one.state for one in installation.judge_kuberay(Seen((deployment("web"),)))] == [State.FAILED]
    assert [one.state for one in installation.judge_kuberay(REFUSED)] == [State.WARNING]


def test_the_operator_has_to_be_available() -> None:
    states = [
        [one.state for one in installation.judge_operator(seen)]
        for seen in (
            Seen((deployment("finetune-operator"),)),
            Seen((deployment("finetune-operator", available="False"),)),
            Seen((deployment("web"),)),
            REFUSED,
        )
    ]
    assert states == [[State.OK], [State.FAILED], [State.FAILED], [State.WARNING]]


def test_the_operator_has_to_know_where_kuberay_is() -> None:
    kuberay = deployment("kuberay-operator", namespace="ray")
    right = deployment("finetune-operator", args=["--kuberay-namespace=ray"])
    assert [one.state for one in installation.judge_operator(Seen((kuberay, right)))] == [State.OK]
    for wrong in (["--kuberay-namespace=kuberay-system"], ["--kuberay-namespace="], []):
        ours = deployment("finetune-operator", args=wrong)
        _, finding = installation.judge_operator(Seen((kuberay, ours)))
        assert finding.state is State.FAILED
        assert finding.remedy.endswith("--set kuberay.namespace=ray")


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (Seen(({"spec": {"holderIdentity": "a", "renewTime": (NOW - timedelta(seconds=20)).isoformat()}},)), State.OK),
        (Seen(({"spec": {"holderIdentity": "a", "renewTime": "2026-11-27T11:58:00.000000Z"}},)), State.FAILED),
        (Seen(({"spec": {"holderIdentity": "", "renewTime": NOW.isoformat()}},)), State.FAILED),
        (Seen(), State.FAILED),
        (REFUSED, State.WARNING),
    ],
)
def test_a_replica_has_to_lead(seen: Seen, state: State) -> None:
    assert installation.judge_lease(deployment("finetune-operator"), seen, NOW).state is state


def test_a_runtime_has_to_be_one_that_jobs_can_run_on() -> None:
    def judge(**spec: Any) -> tuple[State, str]:
        finding, _ = tenancy.judge_runtime("big", Seen(({"spec": {"image": "trainer:1", **spec}},)))
        return finding.state, finding.found

    assert judge() == (State.OK, "valid, image trainer:1, Ray 2.60.0")
    assert judge(rayVersion="2.9.0")[0] is State.FAILED
    assert "spec.rayVersion" in judge(rayVersion="2.9.0")[1]
    assert "spec.of_another_version" in judge(of_another_version=1)[1]
    assert tenancy.judge_runtime("big", Seen())[0].state is State.FAILED
    assert tenancy.judge_runtime("big", REFUSED)[0].state is State.WARNING


def test_nodes_count_that_take_pods_and_have_the_runtimes_gpus() -> None:
    nodes = Seen(
        (node(), node(product="A100"), node(ready="False"), node(cordoned=True), node(more={"amd.com/gpu": "4"}))
    )
    assert tenancy.judge_nodes(Gpu(), nodes).found == "3 ready with 24 nvidia.com/gpu"
    assert tenancy.judge_nodes(Gpu(product="A100"), nodes).found == "1 ready with 8 nvidia.com/gpu on A100"
    assert tenancy.judge_nodes(Gpu(resource_name="amd.com/gpu"), nodes).found == "1 ready with 4 amd.com/gpu"
    none = tenancy.judge_nodes(Gpu(product="B200"), nodes)
    assert (none.state, none.found) == (
        State.WARNING,
        "none of 3 ready nodes has nvidia.com/gpu on B200: only jobs on CPUs can run",
    )
    assert tenancy.judge_nodes(Gpu(), REFUSED).state is State.WARNING


def test_a_namespace_is_shown_with_its_pod_security() -> None:
    labelled = Seen(({"metadata": {"labels": {tenancy.ENFORCED: "restricted"}}},))
    assert tenancy.judge_namespace("a", labelled) == Finding("namespace a", State.OK, "Pod Security restricted")
    assert tenancy.judge_namespace("a", Seen(({"metadata": {}},))).state is State.OK
    assert tenancy.judge_namespace("a", Seen()).remedy == "kubectl create namespace a"
    assert tenancy.judge_namespace("a", REFUSED).state is State.WARNING


def test_whoever_may_not_create_jobs_is_told() -> None:
    assert tenancy.judge_rights("a", {"status": {"allowed": True}}).state is State.OK
    assert tenancy.judge_rights("a", {"status": {"allowed": False}}).state is State.FAILED


def test_the_stores_authority_has_to_be_under_its_key() -> None:
    wanted = ConfigMapKeyRef(name="ca", key="ca.pem")
    judge = tenancy.judge_authority
    assert judge("a", wanted, Seen(({"data": {"ca.pem": "-----BEGIN"}},))).state is State.OK
    assert judge("a", wanted, Seen(({"data": {"ca.crt": "-----BEGIN"}},))).found == "it has no key ca.pem"
    assert judge("a", wanted, Seen()).state is State.FAILED
    assert judge("a", wanted, REFUSED).state is State.WARNING


def test_a_secret_has_to_have_both_keys_and_is_never_shown() -> None:
    data = {"AWS_ACCESS_KEY_ID": "aWQ=", "AWS_SECRET_ACCESS_KEY": "c2VjcmV0"}
    good = tenancy.judge_secret("a", "s3", Seen(({"data": data},)))
    assert good.state is State.OK
    half = tenancy.judge_secret("a", "s3", Seen(({"data": data | {"AWS_SECRET_ACCESS_KEY": ""}},)))
    assert (half.state, half.found) == (State.FAILED, "has no AWS_SECRET_ACCESS_KEY")
    assert not [value for value in data.values() if value in str(good) + str(half)]
    assert tenancy.judge_secret("a", "s3", Seen()).state is State.FAILED
    assert tenancy.judge_secret("a", "s3", REFUSED).state is State.WARNING


def test_a_check_that_the_caller_may_not_make_names_the_right() -> None:
    finding = tenancy.judge_nodes(Gpu(), Seen(refused="list nodes"))
    assert finding.found == "not checked: you may not list nodes"


def test_the_probe_speaks_with_the_runtimes_store_unless_the_environment_names_another() -> None:
    store = RuntimeStorage(endpoint="https://minio:9000", region="here")
    environment = storage.probe_environment({"HOME": "/h"}, store)
    assert environment == {"HOME": "/h", "AWS_ENDPOINT_URL_S3": "https://minio:9000", "AWS_DEFAULT_REGION": "here"}
    own = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_DEFAULT_REGION": "there"}
    assert storage.probe_environment(own, store) == own
    assert storage.probe_environment({}, None) == {}
    owned = RuntimeStorage(expected_bucket_owner="123456789012")
    assert storage.probe_environment({}, owned) == {"FINETUNE_S3_EXPECTED_BUCKET_OWNER": "123456789012"}


def test_what_the_probe_says_is_told_with_where_it_ran() -> None:
    good, bad = storage.judge_probe("s3://b/p", 0, ""), storage.judge_probe("s3://b/p", 14, "Storage: no bucket\n")
    assert (good.state, bad.state) == (State.OK, State.FAILED)
    assert "from this machine, not from a pod" in good.found
    assert bad.found == "tried from this machine, not from a pod: Storage: no bucket"
