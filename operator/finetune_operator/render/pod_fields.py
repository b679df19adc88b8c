"""Which members of a PodSpec and a Container a runtime may set, and why not the others (Kubernetes 1.30)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.errors import Problem

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Members:
    """Members by their shape; `ours` says of those that a runtime may not set what to do instead."""

    objects: frozenset[str]
    lists: frozenset[str]
    scalars: frozenset[str]
    ours: Mapping[str, str]


_NOT_FOR_JOBS = "remove it: pods of jobs stay within their own namespaces"

POD = Members(
    objects=frozenset({"affinity", "dnsConfig", "nodeSelector", "overhead", "securityContext"}),
    lists=frozenset(
        {
            "hostAliases",
            "imagePullSecrets",
            "initContainers",
            "readinessGates",
            "resourceClaims",
            "schedulingGates",
            "tolerations",
            "topologySpreadConstraints",
            "volumes",
        }
    ),
    scalars=frozenset(
        {
            "automountServiceAccountToken",
            "dnsPolicy",
            "enableServiceLinks",
            "hostUsers",
            "preemptionPolicy",
            "runtimeClassName",
            "schedulerName",
            "shareProcessNamespace",
        }
    ),
    ours={
        "activeDeadlineSeconds": "write spec.activeDeadlineSeconds in the job",
        "containers": "write what the Ray container has besides under `container`",
        "ephemeralContainers": "remove it: only running pods have them",
        "hostIPC": _NOT_FOR_JOBS,
        "hostNetwork": _NOT_FOR_JOBS,
        "hostPID": _NOT_FOR_JOBS,
        "hostname": "remove it: Ray finds its nodes by address",
        "nodeName": "write a nodeSelector",
        "os": "remove it: the trainer runs on Linux",
        "priority": "write spec.priorityClassName in the job",
        "priorityClassName": "write spec.priorityClassName in the job",
        "restartPolicy": "remove it: recovery depends on it",
        "serviceAccount": "write spec.serviceAccountName in the job",
        "serviceAccountName": "write spec.serviceAccountName in the job",
        "setHostnameAsFQDN": "remove it: Ray finds its nodes by address",
        "subdomain": "remove it: Ray finds its nodes by address",
        "terminationGracePeriodSeconds": "write spec.terminationGracePeriodSeconds in the job",
    },
)
CONTAINER = Members(
    objects=frozenset({"livenessProbe", "readinessProbe", "resources", "securityContext", "startupProbe"}),
    lists=frozenset({"env", "envFrom", "ports", "volumeDevices", "volumeMounts"}),
    scalars=frozenset({"terminationMessagePath", "terminationMessagePolicy", "workingDir"}),
    ours={
        "args": "remove it: KubeRay starts Ray",
        "command": "remove it: KubeRay starts Ray",
        "image": "write spec.image",
        "imagePullPolicy": "write spec.imagePullPolicy",
        "lifecycle": "remove it: the preStop hook makes the run commit before its pod goes",
        "name": "remove it",
        "resizePolicy": "remove it: Ray counts its resources once",
        "restartPolicy": "remove it: recovery depends on it",
        "stdin": "remove it: nobody is there to type",
        "stdinOnce": "remove it: nobody is there to type",
        "tty": "remove it: nobody is there to look",
    },
)


def shape_problems(found: Found, members: Members, path: str) -> Iterator[Problem]:
    """Members that there are not, that are not the runtime's, or that have the wrong shape."""
    for name, value in found.items():
        where = f"{path}.{name}"
        if name in members.ours:
            yield Problem(where, value, f"is the operator's to write: {members.ours[name]}")
        elif value is None:
            yield Problem(where, value, "is null, which would remove what the operator writes: leave it out")
        elif name in members.objects:
            yield from _object_problems(value, where)
        elif name in members.lists:
            yield from _list_problems(value, where)
        elif name not in members.scalars:
            yield Problem(where, value, _unknown(name, members))
        elif isinstance(value, Mapping | list):
            yield Problem(where, value, "is one value: write neither an object nor a list")


def _object_problems(value: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield Problem(path, value, "is no object: write its members")


def _list_problems(value: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield Problem(path, value, "is no list: begin it with a dash, or write [ ]")
        return
    for index, element in enumerate(value):
        yield from _object_problems(element, f"{path}[{index}]")


def _unknown(name: str, members: Members) -> str:
    known = members.objects | members.lists | members.scalars
    near = difflib.get_close_matches(name, known, n=1)
    return f"is no member that a runtime may set: write {near[0] if near else 'one of ' + ', '.join(sorted(known))}"
