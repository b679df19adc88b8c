"""Runtimes that no job could run on are refused, each with the path and what to write instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_operator.render import check_runtime
from finetune_operator.render.pod_fields import CONTAINER, POD
from finetune_operator.render.restricted import container_context_problems, pod_context_problems
from render_example import runtime_of
from rendering import EXAMPLES, Object, render, runtime, templates, with_workers

RUNTIMES = sorted((EXAMPLES / "runtimes").glob("*.yaml"))


@pytest.mark.parametrize("path", RUNTIMES, ids=lambda path: str(path.stem))
def test_the_examples_are_suitable(path: Any) -> None:
    read = runtime_of(path)
    assert path.stem == read.metadata.name
    assert check_runtime(read.spec) == []


def pod(**spec: Any) -> Object:
    return {"worker": {"spec": spec}}


def box(**container: Any) -> Object:
    return {"head": {"container": container}}


WRONG: list[tuple[Object, str, str]] = [
    ({"rayVersion": "2.52.1"}, "spec.rayVersion", "is older than the trainer needs: use 2.60.0 or newer"),
    ({"sharedMemory": "64Mi"}, "spec.sharedMemory", "is too small for Ray's object store: write 256Mi or more"),
    ({"egress": [{"from": []}]}, "spec.egress[0].from", "is no member of an egress rule: write to or ports"),
    ({"head": {"labels": {"ray.io/cluster": "x"}}}, "spec.head.labels.ray.io/cluster", "pods are found by"),
    (
        {"worker": {"labels": {"app.kubernetes.io/name": "x"}}},
        "spec.worker.labels.app.kubernetes.io/name",
        "is a label that pods are found by: remove it",
    ),
    ({"worker": {"labels": {"a b": "c"}}}, "spec.worker.labels.a b", "is no name of a label: write [<domain>/]<name>"),
    ({"worker": {"labels": {"a": "-"}}}, "spec.worker.labels.a", "is no value of a label: write letters, digits"),
    ({"head": {"annotations": {"a/b/c": ""}}}, "spec.head.annotations.a/b/c", "is no name of an annotation"),
    (
        {"storage": {"credentials": "Secret", "webIdentity": {"roleArn": "arn:aws:iam::0:role/finetune"}}},
        "spec.storage.webIdentity",
        "has no effect with credentials: Secret: remove it",
    ),
    (
        {"storage": {"serverSideEncryption": {"type": "AES256", "keyId": "alias/training"}}},
        "spec.storage.serverSideEncryption.keyId",
        "has no effect with type: AES256: remove it, or write type: aws:kms",
    ),
    (
        {"modelCache": {"size": "1Ti", "volume": {"hostPath": {"path": "/models"}}}},
        "spec.modelCache.volume.hostPath",
        "is refused by Pod Security `restricted`",
    ),
    ({"modelCache": {"size": "1Ti", "volume": {}}}, "spec.modelCache.volume", "is no volume: write one source"),
    (pod(volumes=[{"name": "finetune-models"}]), "spec.worker.spec.volumes[0].name", "that the operator needs"),
    (box(env=[{"name": "AWS_ROLE_ARN"}]), "spec.head.container.env[0].name", "is a variable that the operator sets"),
    (pod(containers=[{"name": "a"}]), "spec.worker.spec.containers", "is the operator's to write: write what the Ray"),
    (pod(restartPolicy="Never"), "spec.worker.spec.restartPolicy", "recovery depends on it"),
    (pod(hostNetwork=True), "spec.worker.spec.hostNetwork", "stay within their own namespaces"),
    (pod(serviceAccountName="x"), "spec.worker.spec.serviceAccountName", "write spec.serviceAccountName in the job"),
    (pod(terminationGracePeriodSeconds=5), "spec.worker.spec.terminationGracePeriodSeconds", "in the job"),
    (pod(toleratons=[]), "spec.worker.spec.toleratons", "is no member that a runtime may set: write tolerations"),
    (pod(nodeSelector=["a"]), "spec.worker.spec.nodeSelector", "is no object: write its members"),
    (pod(tolerations={"key": "a"}), "spec.worker.spec.tolerations", "is no list: begin it with a dash"),
    (pod(tolerations=["a"]), "spec.worker.spec.tolerations[0]", "is no object: write its members"),
    (pod(volumes=None), "spec.worker.spec.volumes", "which would remove what the operator writes: leave it out"),
    (pod(securityContext=None), "spec.worker.spec.securityContext", "is null"),
    (pod(schedulerName=["a"]), "spec.worker.spec.schedulerName", "is one value: write neither an object nor a list"),
    (
        pod(volumes=[{"name": "data", "hostPath": {"path": "/"}}]),
        "spec.worker.spec.volumes[0].hostPath",
        "is refused by Pod Security `restricted`, which pods of jobs keep to: write one of configMap, csi",
    ),
    (pod(volumes=[{"name": "finetune-job", "emptyDir": {}}]), "spec.worker.spec.volumes[0].name", "write another name"),
    (pod(securityContext={"runAsNonRoot": False}), "spec.worker.spec.securityContext.runAsNonRoot", "write true"),
    (pod(securityContext={"runAsNonRoot": None}), "spec.worker.spec.securityContext.runAsNonRoot", "write true"),
    (pod(securityContext={"runAsUser": 0}), "spec.worker.spec.securityContext.runAsUser", "another user than root"),
    (pod(securityContext={"seccompProfile": None}), "spec.worker.spec.securityContext.seccompProfile", "this null"),
    (
        pod(securityContext={"seccompProfile": {"type": "Unconfined"}}),
        "spec.worker.spec.securityContext.seccompProfile.type",
        "write RuntimeDefault or Localhost",
    ),
    (
        pod(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
        "spec.worker.spec.securityContext.sysctls[0]",
        "remove it",
    ),
    (
        pod(initContainers=[{"name": "a", "securityContext": {"privileged": True}}]),
        "spec.worker.spec.initContainers[0].securityContext.privileged",
        "write false",
    ),
    (box(image="x"), "spec.head.container.image", "is the operator's to write: write spec.image"),
    (box(command=["ray"]), "spec.head.container.command", "KubeRay starts Ray"),
    (box(lifecycle={}), "spec.head.container.lifecycle", "the preStop hook makes the run commit"),
    (
        box(securityContext={"allowPrivilegeEscalation": True}),
        "spec.head.container.securityContext.allowPrivilegeEscalation",
        "write false",
    ),
    (
        box(securityContext={"capabilities": {"add": ["IPC_LOCK"]}}),
        "spec.head.container.securityContext.capabilities.add",
        "remove it",
    ),
    (
        box(securityContext={"capabilities": {"drop": None}}),
        "spec.head.container.securityContext.capabilities.drop",
        "write [ALL], or leave it out",
    ),
    (box(securityContext={"procMount": "Unmasked"}), "spec.head.container.securityContext.procMount", "remove it"),
    (box(ports=[{"containerPort": 1, "hostPort": 1}]), "spec.head.container.ports[0].hostPort", "remove it"),
    (box(env=[{"name": "FINETUNE_ATTEMPT", "value": "9"}]), "spec.head.container.env[0].name", "the operator sets"),
    (box(env=[{"name": "RAY_AUTH_MODE", "value": ""}]), "spec.head.container.env[0].name", "that the operator sets"),
    (box(volumeMounts=[{"name": "no", "mountPath": "/x"}]), "spec.head.container.volumeMounts[0].name", "is no volume"),
    (
        box(volumeMounts=[{"name": "tmp", "mountPath": "/etc/finetune/"}]),
        "spec.head.container.volumeMounts[0].mountPath",
        "where the operator mounts something",
    ),
    (box(resources={"limits": None}), "spec.head.container.resources.limits", "is no object: write amounts by name"),
    (box(resources={"limits": {"cpu": "4"}}), "spec.head.container.resources.limits.cpu", "write cpu of the role"),
    (
        {
            "gpu": {"resourceName": "amd.com/gpu"},
            "worker": {"container": {"resources": {"requests": {"amd.com/gpu": 1}}}},
        },
        "spec.worker.container.resources.requests.amd.com/gpu",
        "write spec.workers.gpusPerReplica in the job",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "path", "message"), WRONG, ids=[path for _, path, _ in WRONG])
def test_what_no_job_could_run_on_is_refused(spec: Object, path: str, message: str) -> None:
    (problem,) = check_runtime(runtime(**spec))
    assert problem.path == path
    assert message in problem.message


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2000)
    | st.sampled_from(["", "a", "ALL", "RuntimeDefault", "Unconfined"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["name", "key", "type", "add", "drop", "mountPath", "capabilities", "limits", "emptyDir"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)


def members(kind: Any) -> st.SearchStrategy[Object]:
    names = sorted(kind.objects | kind.lists | kind.scalars)
    context = st.dictionaries(
        st.sampled_from(["runAsNonRoot", "runAsUser", "seccompProfile", "capabilities", "privileged", "sysctls"]), JUNK
    )
    known = st.dictionaries(st.sampled_from(names), JUNK, max_size=3)
    return st.builds(lambda some, inner: {**some, "securityContext": inner}, known, context) | known


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(members(POD), members(CONTAINER))
def test_whatever_is_accepted_can_be_rendered_and_stays_restricted(spec: Object, container: Object) -> None:
    try:
        on = runtime(worker={"spec": spec, "container": container})
    except ValidationError:
        return
    if check_runtime(on):
        return
    made = json.loads(json.dumps(templates(render(with_workers(2, 8), on))["worker"]["spec"]))
    assert [one["name"] for one in made["containers"]] == ["ray-worker"]
    assert made["restartPolicy"] == "Always"
    assert list(pod_context_problems(made["securityContext"], "")) == []
    for one in [*made["containers"], *made.get("initContainers", [])]:
        assert list(container_context_problems(one["securityContext"], "")) == []
