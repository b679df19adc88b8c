"""Pod templates of the head and the workers: what the operator writes, joined with what the runtime adds."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.job import ROLE, Job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.render.avoidance import keep_off
from finetune_operator.render.environment import environment
from finetune_operator.render.lifecycle import POD_STOP, Role, grace, pre_stop, probes
from finetune_operator.render.merge import merge
from finetune_operator.render.names import Object, attempt_labels, attempt_name, service_account
from finetune_operator.render.places import HEAD_PORTS, WORKER_PORTS
from finetune_operator.render.reporting import Operator
from finetune_operator.render.resources import Share, head_share, requirements, worker_share
from finetune_operator.render.volumes import mounts

USER = 1000
"""User and group of the processes, and the group that volumes belong to; that of Ray's own images."""

POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""Together what Pod Security `restricted` asks for; KubeRay's init container copies the container's."""

# Autoscalers that tidy up must not move a pod of a run that would have to stop as a whole; a drain still may.
KEPT = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}

LEAVES_AFTER = 60
"""Seconds that a pod stays bound to a node that does not answer; its run cannot go on without it, and all others wait.

Kubernetes' own default is 300.
"""

GPU_PRODUCT = "nvidia.com/gpu.product"


def pod_template(job: Job, runtime: RuntimeSpec, number: int, operator: Operator, role: Role) -> Object:
    """The template of the pods of one role."""
    options = runtime.head if role == "head" else runtime.worker
    share = head_share(runtime) if role == "head" else worker_share(job, runtime)
    name = attempt_name(job.name, job.uid, number)
    mounted = list(mounts(job, runtime, name, operator, role))
    container = {
        "name": f"ray-{role}",
        "image": runtime.image,
        "imagePullPolicy": runtime.image_pull_policy,
        "ports": _ports(HEAD_PORTS if role == "head" else WORKER_PORTS),
        "env": environment(job, runtime, number, operator, role),
        "resources": requirements(share, runtime),
        "volumeMounts": [one.volume_mount() for one in mounted],
        "securityContext": CONTAINER_SECURITY,
        "lifecycle": pre_stop(job, runtime, role, name),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **probes(role),
    }
    pod = {**_base(job, runtime, role), **_placement(job, runtime, share), "volumes": [one.volume() for one in mounted]}
    return {
        "metadata": {
            "labels": {**options.labels, **attempt_labels(job, number), ROLE: role},
            "annotations": {**KEPT, **options.annotations},
        },
        "spec": {
            **keep_off(merge(pod, _with_secure_init_containers(options.spec)), job.status.offenders),
            "containers": [merge(container, options.container)],
        },
    }


def _base(job: Job, runtime: RuntimeSpec, role: Role) -> Object:
    return {
        "serviceAccountName": service_account(job),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never" if role == "head" else "Always",
        "terminationGracePeriodSeconds": grace(job, runtime) + POD_STOP,
        "securityContext": POD_SECURITY,
    }


def _placement(job: Job, runtime: RuntimeSpec, share: Share) -> Object:
    """Where the pod may run; only pods with GPUs may run on nodes that keep others away from theirs."""
    found: dict[str, Any] = {"tolerations": [_leaves("not-ready"), _leaves("unreachable")]}
    if job.manifest.spec.priority_class_name:
        found["priorityClassName"] = job.manifest.spec.priority_class_name
    if share.gpus:
        found["tolerations"].append({"key": runtime.gpu.resource_name, "operator": "Exists", "effect": "NoSchedule"})
        if runtime.gpu.product:
            found["nodeSelector"] = {GPU_PRODUCT: runtime.gpu.product}
    return found


def _leaves(state: str) -> Object:
    return {
        "key": f"node.kubernetes.io/{state}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": LEAVES_AFTER,
    }


def _ports(ports: dict[str, int]) -> list[Object]:
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _with_secure_init_containers(spec: Object) -> Object:
    """The runtime's init containers get the Ray container's security context where they do not say otherwise."""
    containers = spec.get("initContainers")
    if not containers:
        return spec
    return {**spec, "initContainers": [merge({"securityContext": CONTAINER_SECURITY}, one) for one in containers]}
