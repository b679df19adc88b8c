"""Checks of what jobs need: a runtime, nodes for it, and what a tenant's namespace has. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from finetune_operator.api.runtime import ConfigMapKeyRef, Gpu, RuntimeSpec, read_runtime
from finetune_operator.doctor.finding import Finding, Seen, State, unreadable
from finetune_operator.doctor.installation import holds
from finetune_operator.kube.resources import Object
from finetune_operator.render import check_runtime
from finetune_trainer.errors import SpecError

PRODUCT = "nvidia.com/gpu.product"
ENFORCED = "pod-security.kubernetes.io/enforce"
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def judge_runtime(name: str, seen: Seen) -> tuple[Finding, RuntimeSpec | None]:
    """Whether the runtime is there and jobs can run on it, and what it says if it can be read."""
    check = f"FineTuneRuntime {name}"
    if seen.refused:
        return unreadable(check, seen), None
    if seen.first is None:
        remedy = "kubectl apply --filename examples/runtimes/default.yaml (with your image), or name another: --runtime"
        return Finding(check, State.FAILED, "there is none", remedy), None
    edit = f"kubectl edit finetuneruntime {name}"
    try:
        runtime = read_runtime(seen.first)
    except SpecError as error:
        return Finding(check, State.FAILED, "; ".join(map(str, error.problems)), edit), None
    if problems := check_runtime(runtime):
        return Finding(check, State.FAILED, "; ".join(map(str, problems)), edit), runtime
    return Finding(check, State.OK, f"valid, image {runtime.image}, Ray {runtime.ray_version}"), runtime


def judge_nodes(gpu: Gpu, nodes: Seen) -> Finding:
    """How many nodes that take pods announce the runtime's GPUs."""
    check, wanted = "GPU nodes", gpu.resource_name + (f" on {gpu.product}" if gpu.product else "")
    if nodes.refused:
        return unreadable(check, nodes)
    counts = [_gpus(node, gpu) for node in nodes.objects if _takes_pods(node)]
    fitting = [count for count in counts if count]
    if fitting:
        return Finding(check, State.OK, f"{len(fitting)} ready with {sum(fitting)} {wanted}")
    found = f"none of {len(counts)} ready nodes has {wanted}: only jobs on CPUs can run"
    remedy = "install the vendor's device plugin, or correct spec.gpu of the runtime"
    return Finding(check, State.WARNING, found, remedy)


def _takes_pods(node: Object) -> bool:
    return holds(node, "Ready") and not (node.get("spec") or {}).get("unschedulable")


def _gpus(node: Object, gpu: Gpu) -> int:
    if gpu.product is not None and (node["metadata"].get("labels") or {}).get(PRODUCT) != gpu.product:
        return 0
    return int(((node.get("status") or {}).get("allocatable") or {}).get(gpu.resource_name, 0))


def judge_namespace(name: str, seen: Seen) -> Finding:
    """Whether the namespace is there, and the Pod Security level that it enforces; jobs' pods keep to each."""
    check = f"namespace {name}"
    if seen.refused:
        return unreadable(check, seen)
    if seen.first is None:
        return Finding(check, State.FAILED, "there is none", f"kubectl create namespace {name}")
    level = (seen.first["metadata"].get("labels") or {}).get(ENFORCED)
    return Finding(check, State.OK, f"Pod Security {level}" if level else f"without a label {ENFORCED}")


def judge_rights(namespace: str, review: Object) -> Finding:
    """Whether the caller may create jobs; `review` is an answered SelfSubjectAccessReview."""
    check, status = f"rights in {namespace}", review.get("status") or {}
    if status.get("allowed"):
        return Finding(check, State.OK, "you may create finetunejobs")
    remedy = f"kubectl --namespace {namespace} create rolebinding jobs --clusterrole=edit --user=<you>"
    return Finding(check, State.FAILED, "you may not create finetunejobs", f"have an administrator run: {remedy}")


def judge_authority(namespace: str, wanted: ConfigMapKeyRef, seen: Seen) -> Finding:
    """Whether the namespace has the ConfigMap with the authority of the runtime's store."""
    check = f"ConfigMap {namespace}/{wanted.name}"
    if seen.refused:
        return unreadable(check, seen)
    create = f"kubectl --namespace {namespace} create configmap {wanted.name} --from-file={wanted.key}=<file>"
    create += " --dry-run=client --output yaml | kubectl apply --server-side --filename -"  # also where there is one
    if seen.first is None:
        return Finding(check, State.FAILED, "there is none: the runtime's pods do not start without it", create)
    if not (seen.first.get("data") or {}).get(wanted.key):
        return Finding(check, State.FAILED, f"it has no key {wanted.key}", create)
    return Finding(check, State.OK, f"has the store's authority in {wanted.key}")


def judge_secret(namespace: str, name: str, seen: Seen) -> Finding:
    """Whether the Secret has what S3 clients look for; no value is shown."""
    check = f"Secret {namespace}/{name}"
    if seen.refused:
        return unreadable(check, seen)
    literals = " ".join(f"--from-literal={key}=<value>" for key in CREDENTIALS)
    create = f"kubectl --namespace {namespace} create secret generic {name} {literals}"
    if seen.first is None:
        return Finding(check, State.FAILED, "there is none", create)
    data: Mapping[str, str] = seen.first.get("data") or {}
    if missing := [key for key in CREDENTIALS if not data.get(key)]:
        values = json.dumps({"stringData": dict.fromkeys(missing, "<value>")})
        patch = f"kubectl --namespace {namespace} patch secret {name} --patch '{values}'"
        return Finding(check, State.FAILED, f"has no {' and no '.join(missing)}", patch)
    return Finding(check, State.OK, f"has {' and '.join(CREDENTIALS)}")
