"""FineTuneRuntime: the platform team's template for the clusters that jobs run on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from finetune_operator.api.job import NEWER
from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.spec.base import Count, Part, Seconds
from finetune_trainer.spec.job import GRACE
from finetune_trainer.spec.messages import shown_path, shown_value
from finetune_trainer.spec.names import AnnotationValue, LabelKey, LabelValue, ObjectName, QueueName, SecretKey
from finetune_trainer.spec.quantity import Cpu, Memory

Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")]
RayVersion = Annotated[str, Field(max_length=32, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
ResourceName = Annotated[str, Field(max_length=253, pattern=r"^[-a-z0-9.]+/[-a-zA-Z0-9._]+$")]
Endpoint = Annotated[str, Field(max_length=512, pattern=r"^https?://[^\s/]+/?$")]
Region = Annotated[str, Field(max_length=64, pattern=r"^[-a-z0-9]+$")]
# 20: the shortest that an STS takes.
RoleArn = Annotated[
    str, Field(min_length=20, max_length=2048, pattern=r"^arn:([^\s{}]|\{namespace\}|\{serviceAccount\})+$")
]
# A key's id, its ARN, or an alias: `alias/training`.
KmsKey = Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^[-A-Za-z0-9:/_.]+$")]
AccountId = Annotated[str, Field(pattern=r"^[0-9]{12}$", max_length=12)]
PodFields = Annotated[
    dict[Annotated[str, Field(max_length=64)], Any],
    Field(max_length=32),
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]


class Gpu(Part):
    """The GPUs that the runtime's nodes have."""

    resource_name: ResourceName = "nvidia.com/gpu"
    """Name of the extended resource that a pod asks for."""

    product: LabelValue | None = None
    """Product as the label `nvidia.com/gpu.product` of the nodes has it; workers are placed on such nodes only."""

    memory: Memory | None = None
    """Memory of one GPU: jobs that cannot fit are refused. That of a known `product` when left out."""


class PodOptions(Part):
    """What the pods of one role have besides what the operator writes."""

    cpu: Cpu | None = None
    """Cores, as request and limit, where the job does not say."""

    memory: Memory | None = None
    """Memory, as request and limit, where the job does not say."""

    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=64)] = Field(default_factory=dict)
    """Labels of the pods."""

    annotations: Annotated[dict[LabelKey, AnnotationValue], Field(max_length=64)] = Field(default_factory=dict)
    """Annotations of the pods."""

    spec: PodFields = Field(default_factory=dict)
    """Members of the PodSpec to add: `nodeSelector`, `tolerations`, `affinity`, `volumes`, `imagePullSecrets` ..."""

    container: PodFields = Field(default_factory=dict)
    """Members of the Ray container to add: `env`, `volumeMounts` ..."""


class ConfigMapKeyRef(Part):
    """One key of a ConfigMap in the job's namespace."""

    name: ObjectName
    """Name of the ConfigMap."""

    key: SecretKey = "ca.crt"
    """Key within the ConfigMap."""


class CredentialSource(StrEnum):
    """How jobs get credentials for S3."""

    ANY = "Any"
    SECRET = "Secret"
    WEB_IDENTITY = "WebIdentity"


class WebIdentity(Part):
    """How pods take a role by the token of their service account, where no webhook of the cloud sees to it."""

    role_arn: RoleArn
    """Role to take; `{namespace}` and `{serviceAccount}` stand for those of the job."""

    audience: Annotated[str, Field(min_length=1, max_length=512)] = "sts.amazonaws.com"
    """Audience of the token, as the STS expects it."""

    sts_endpoint: Endpoint | None = None
    """Address of the STS; AWS' own when left out."""


class EncryptionType(StrEnum):
    """How S3 encrypts objects, in its own words."""

    S3 = "AES256"
    KMS = "aws:kms"
    KMS_TWICE = "aws:kms:dsse"


class ServerSideEncryption(Part):
    """The encryption that each write asks for."""

    type: EncryptionType
    """Algorithm, as the header `x-amz-server-side-encryption` has it."""

    key_id: KmsKey | None = None
    """Id, ARN or alias of the key in KMS, for `aws:kms` and `aws:kms:dsse`; the account's own `aws/s3` when left out.
    """


class RuntimeStorage(Part):
    """The S3 store that the runtime's jobs read from and write to."""

    endpoint: Endpoint | None = None
    """Address of the store; AWS' own when left out."""

    region: Region | None = None
    """Region of the store."""

    ca_config_map: ConfigMapKeyRef | None = None
    """Certificate authority of the store, as a ConfigMap that each tenant's namespace has."""

    server_side_encryption: ServerSideEncryption | None = None
    """Encryption that each write asks for, where the bucket's policy denies plain ones; the bucket's own when left out.
    """

    expected_bucket_owner: AccountId | None = None
    """Account that must own every bucket that jobs read or write; requests to any other bucket are denied."""

    credentials: CredentialSource = CredentialSource.ANY
    """`Secret`: jobs must give `spec.storage.secretRef`; `WebIdentity`: they must not; `Any`: they may."""

    web_identity: WebIdentity | None = None
    """How jobs without a Secret take a role; left out where the cloud's own webhook sees to it, as on EKS."""


class ModelCache(Part):
    """A volume on which base models outlive the pods that fetched them, for the next attempt or job on the node."""

    volume: PodFields
    """Source of the volume as in a PodSpec, without a name, for instance `persistentVolumeClaim: {claimName: models}`.
    """

    size: Memory
    """Most that is kept on it; what nobody uses goes first that was used least recently."""


class Queue(Part):
    """Where the runtime's jobs queue with Kueue."""

    name: QueueName | None = None
    """LocalQueue of jobs that name none."""

    required: bool = False
    """Refuse jobs without a queue."""


class Limits(Part):
    """What the runtime's jobs may use together or each."""

    max_running_jobs: Count | None = None
    """Jobs that may have a cluster at a time; the others wait, first come first served, namespaces in turn."""

    max_workers: Count | None = None
    """`spec.workers.replicas` of one job."""

    max_gpus: Count | None = None
    """`replicas x gpusPerReplica` of one job."""


class RuntimeSpec(Part):
    """What the clusters of the runtime's jobs are made of."""

    image: Image
    """Image of head and workers: it holds the trainer and Ray."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull the image."""

    ray_version: RayVersion = "2.60.0"
    """Ray's version in the image."""

    gpu: Gpu = Gpu()
    """The GPUs that the runtime's nodes have."""

    shared_memory: Memory = "8Gi"
    """Size of /dev/shm in each pod; it counts as the pod's memory."""

    head: PodOptions = PodOptions(cpu="2", memory="8Gi")
    """The head's pod; it runs no rank and gets no GPU."""

    worker: PodOptions = PodOptions(cpu="4", memory="16Gi")
    """The workers' pods."""

    storage: RuntimeStorage = RuntimeStorage()
    """The S3 store that the runtime's jobs read from and write to."""

    model_cache: ModelCache | None = None
    """Where workers keep the models that they fetch from S3; with the pod when left out."""

    queue: Queue = Queue()
    """Where the runtime's jobs queue with Kueue."""

    egress: Annotated[tuple[PodFields, ...], Field(max_length=32)] | None = None
    """Where pods may connect to besides each other, DNS and the operator, as egress rules of a NetworkPolicy; to any
    address but the nodes' metadata service when left out."""

    limits: Limits = Limits()
    """What the runtime's jobs may use together or each."""

    termination_grace_period_seconds: Seconds = GRACE
    """Time a stopped run has to commit a checkpoint, where the job does not say."""


class RuntimeMetadata(Part):
    """Name of the runtime; it belongs to no namespace."""

    name: ObjectName
    """Name by which jobs refer to it."""


class FineTuneRuntime(Part):
    """The platform team's template for the clusters that jobs run on."""

    api_version: Literal["finetune.dev/v1alpha1"]
    """Version of this format."""

    kind: Literal["FineTuneRuntime"]
    """Kind of this object."""

    metadata: RuntimeMetadata
    """Name of the runtime."""

    spec: RuntimeSpec
    """What the clusters of the runtime's jobs are made of."""


def read_runtime(found: Mapping[str, Any]) -> RuntimeSpec:
    """What an object of the API server says. Raises finetune_trainer.errors.SpecError for what only older rules let
    pass, and for fields that only newer definitions have."""
    try:
        return RuntimeSpec.model_validate_json(json.dumps(found["spec"]))
    except ValidationError as error:
        raise SpecError([_problem(details) for details in error.errors()]) from None


def _problem(details: ErrorDetails) -> Problem:
    place = ("spec", *details["loc"])
    message = NEWER if details["type"] == "extra_forbidden" else details["msg"]
    return Problem(shown_path(place), shown_value(place, details["input"]), message)
