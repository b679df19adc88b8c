"""What is wrong with a runtime, before any job runs on it: everything that a pod would be refused for later."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_operator.api.job import GROUP
from finetune_operator.api.runtime import CredentialSource, EncryptionType, PodOptions, RuntimeSpec
from finetune_operator.render import restricted
from finetune_operator.render.merge import merge
from finetune_operator.render.places import JOB_DIR, MODEL_CACHE, TOKEN_DIR, WEB_IDENTITY_DIR
from finetune_operator.render.pod_fields import CONTAINER, POD, shape_problems
from finetune_operator.render.pods import CONTAINER_SECURITY, POD_SECURITY
from finetune_operator.render.resources import OBJECT_STORE
from finetune_operator.render.volumes import KEPT_VOLUMES, OWN_VOLUMES
from finetune_trainer.errors import Problem
from finetune_trainer.spec.quantity import memory_bytes

OLDEST_RAY = (2, 60, 0)
"""The oldest Ray that the trainer runs with."""

LEAST_SHARED_MEMORY = 2 * OBJECT_STORE

OUR_VARIABLES = re.compile(
    r"FINETUNE_|RAY_(ADDRESS|AUTH|CLUSTER|GRACEFUL_SHUTDOWN|JOB_STOP|TRAIN_V2)|"
    r"AWS_(CA_BUNDLE|(DEFAULT_)?REGION|ENDPOINT_URL_(S3|STS)|ROLE_ARN|ROLE_SESSION_NAME|WEB_IDENTITY_TOKEN_FILE)$"
)
"""Environment variables that the operator relies on, or that a field of the runtime is for."""

OUR_LABELS = re.compile(
    rf"(ray\.io|{re.escape(GROUP)})/|kueue\.x-k8s\.io/queue-name$|app\.kubernetes\.io/(name|created-by|managed-by)$"
)
"""Labels by which KubeRay's services, Kueue or we find pods."""

NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{NAME}")
LABEL_VALUE = re.compile(rf"({NAME})?")

OUR_PLACES = (JOB_DIR, TOKEN_DIR, WEB_IDENTITY_DIR, MODEL_CACHE)

EGRESS = frozenset({"to", "ports"})


def check_runtime(runtime: RuntimeSpec) -> list[Problem]:
    """Every problem of a runtime's spec, by the path at which it is written; none for one that jobs can run on."""
    return [
        *_version(runtime),
        *_shared_memory(runtime),
        *_egress(runtime),
        *_web_identity(runtime),
        *_encryption(runtime),
        *_model_cache(runtime),
        *_pods(runtime, runtime.head, "spec.head"),
        *_pods(runtime, runtime.worker, "spec.worker"),
    ]


def _version(runtime: RuntimeSpec) -> Iterator[Problem]:
    if tuple(int(part) for part in runtime.ray_version.split(".")) < OLDEST_RAY:
        oldest = ".".join(str(part) for part in OLDEST_RAY)
        yield Problem("spec.rayVersion", runtime.ray_version, f"is older than the trainer needs: use {oldest} or newer")


def _shared_memory(runtime: RuntimeSpec) -> Iterator[Problem]:
    if memory_bytes(runtime.shared_memory) < LEAST_SHARED_MEMORY:
        message = f"is too small for Ray's object store: write {LEAST_SHARED_MEMORY // 2**20}Mi or more"
        yield Problem("spec.sharedMemory", runtime.shared_memory, message)


def _egress(runtime: RuntimeSpec) -> Iterator[Problem]:
    for index, rule in enumerate(runtime.egress or ()):
        for name in sorted(set(rule) - EGRESS):
            message = "is no member of an egress rule: write to or ports"
            yield Problem(f"spec.egress[{index}].{name}", rule[name], message)


def _web_identity(runtime: RuntimeSpec) -> Iterator[Problem]:
    found = runtime.storage.web_identity
    if found is not None and runtime.storage.credentials is CredentialSource.SECRET:
        message = "has no effect with credentials: Secret: remove it, or write credentials: WebIdentity or Any"
        yield Problem("spec.storage.webIdentity", found.role_arn, message)


def _encryption(runtime: RuntimeSpec) -> Iterator[Problem]:
    found = runtime.storage.server_side_encryption
    if found is not None and found.key_id is not None and found.type is EncryptionType.S3:
        message = "has no effect with type: AES256: remove it, or write type: aws:kms"
        yield Problem("spec.storage.serverSideEncryption.keyId", found.key_id, message)


def _model_cache(runtime: RuntimeSpec) -> Iterator[Problem]:
    if runtime.model_cache is None:
        return
    path, volume = "spec.modelCache.volume", runtime.model_cache.volume
    if len(volume) != 1:
        message = (
            "is no volume: write one source and nothing else, for instance persistentVolumeClaim: {claimName: ...}"
        )
        yield Problem(path, volume, message)
    yield from restricted.source_problems(volume, path)


def _pods(runtime: RuntimeSpec, options: PodOptions, path: str) -> Iterator[Problem]:
    yield from _metadata(options, path)
    wrong = [
        *shape_problems(options.spec, POD, f"{path}.spec"),
        *shape_problems(options.container, CONTAINER, f"{path}.container"),
    ]
    if wrong:  # the checks below need the right shapes
        yield from wrong
        return
    yield from _pod(options.spec, f"{path}.spec")
    yield from _container(runtime, options, f"{path}.container")


def _metadata(options: PodOptions, path: str) -> Iterator[Problem]:
    for key, value in options.labels.items():
        if OUR_LABELS.match(key):
            yield Problem(f"{path}.labels.{key}", value, "is a label that pods are found by: remove it")
        elif not LABEL_KEY.fullmatch(key):
            yield Problem(f"{path}.labels.{key}", value, "is no name of a label: write [<domain>/]<name>")
        elif not LABEL_VALUE.fullmatch(value):
            advice = "write letters, digits, dashes, dots and underscores, a letter or digit first and last"
            yield Problem(f"{path}.labels.{key}", value, f"is no value of a label: {advice}")
    for key, value in options.annotations.items():
        if not LABEL_KEY.fullmatch(key):
            yield Problem(f"{path}.annotations.{key}", value, "is no name of an annotation: write [<domain>/]<name>")


def _pod(spec: Mapping[str, Any], path: str) -> Iterator[Problem]:
    context = merge({"securityContext": POD_SECURITY}, spec)["securityContext"]
    yield from restricted.pod_context_problems(context, f"{path}.securityContext")
    volumes = spec.get("volumes", [])
    yield from restricted.volume_problems(volumes, f"{path}.volumes")
    for index, volume in enumerate(volumes):
        if volume.get("name") in (None, *KEPT_VOLUMES):
            message = "is missing or one that the operator needs: write another name"
            yield Problem(f"{path}.volumes[{index}].name", volume.get("name"), message)
    for index, container in enumerate(spec.get("initContainers", [])):
        yield from _security(container, f"{path}.initContainers[{index}]")


def _container(runtime: RuntimeSpec, options: PodOptions, path: str) -> Iterator[Problem]:
    container = options.container
    yield from _security(container, path)
    for index, variable in enumerate(container.get("env", [])):
        if OUR_VARIABLES.match(str(variable.get("name"))):
            message = "is a variable that the operator sets: remove it"
            yield Problem(f"{path}.env[{index}].name", variable["name"], message)
    yield from _volume_mounts(options, f"{path}.volumeMounts")
    yield from _resources(runtime, container.get("resources", {}), f"{path}.resources")


def _security(container: Mapping[str, Any], path: str) -> Iterator[Problem]:
    context = merge({"securityContext": CONTAINER_SECURITY}, container).get("securityContext")
    yield from restricted.container_context_problems(restricted.members(context), f"{path}.securityContext")
    yield from restricted.port_problems(restricted.elements(container.get("ports")), f"{path}.ports")


def _volume_mounts(options: PodOptions, path: str) -> Iterator[Problem]:
    volumes = [*OWN_VOLUMES, *(volume.get("name") for volume in options.spec.get("volumes", []))]
    for index, mount in enumerate(options.container.get("volumeMounts", [])):
        if mount.get("name") not in volumes:
            message = "is no volume of the pod: write the name of one in spec.volumes"
            yield Problem(f"{path}[{index}].name", mount.get("name"), message)
        if str(mount.get("mountPath", "")).rstrip("/") in ("", *OUR_PLACES):
            message = "is missing or where the operator mounts something: write another path"
            yield Problem(f"{path}[{index}].mountPath", mount.get("mountPath"), message)


def _resources(runtime: RuntimeSpec, resources: Mapping[str, Any], path: str) -> Iterator[Problem]:
    """Cores, memory and GPUs have to be what Ray is told of."""
    elsewhere = {
        "cpu": "write cpu of the role, or spec.workers.resources in the job",
        "memory": "write memory of the role, or spec.workers.resources in the job",
        runtime.gpu.resource_name: "write spec.workers.gpusPerReplica in the job",
    }
    for kind in [one for one in ("requests", "limits") if one in resources]:
        if not isinstance(resources[kind], Mapping):
            yield Problem(f"{path}.{kind}", resources[kind], "is no object: write amounts by name")
        for name, value in restricted.members(resources[kind]).items():
            if name in elsewhere:
                yield Problem(f"{path}.{kind}.{name}", value, f"is counted elsewhere: {elsewhere[name]}")
