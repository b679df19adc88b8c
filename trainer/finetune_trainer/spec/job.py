"""The manifest: one FineTuneJob."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_trainer.spec.base import CountOrZero, Part, Seconds
from finetune_trainer.spec.checkpoint import Checkpoint
from finetune_trainer.spec.cluster import FailurePolicy, Hub, RuntimeRef, Storage
from finetune_trainer.spec.data import Data
from finetune_trainer.spec.deepspeed import DeepSpeed
from finetune_trainer.spec.evaluation import Evaluation
from finetune_trainer.spec.method import Method
from finetune_trainer.spec.model import Model
from finetune_trainer.spec.names import (
    AnnotationValue,
    JobName,
    LabelKey,
    LabelValue,
    Namespace,
    ObjectName,
    QueueName,
    Uid,
)
from finetune_trainer.spec.objective import Objective
from finetune_trainer.spec.output import Output
from finetune_trainer.spec.tracker import Trackers
from finetune_trainer.spec.training import Training
from finetune_trainer.spec.workers import Workers

API_VERSION = "finetune.dev/v1alpha1"
KIND = "FineTuneJob"

GRACE = 300
"""Seconds that a stopped run has to commit where neither its manifest nor its runtime says."""


class Metadata(Part):
    """Name and place of the job; fields that the API server adds are accepted and ignored."""

    name: JobName
    """Name of the job: at most 36 lower-case letters, digits and dashes, a letter first."""

    namespace: Namespace = "default"
    """Namespace of the job."""

    uid: Uid | None = None
    """Set by the API server; names the run's folder on a cluster."""

    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=64)] = Field(default_factory=dict)
    """Labels, without effect on the training."""

    annotations: Annotated[dict[LabelKey, AnnotationValue], Field(max_length=64)] = Field(default_factory=dict)
    """Annotations, without effect on the training."""


class JobSpec(Part):
    """What to train, on what, and where the result goes."""

    model: Model
    """The model that training starts from."""

    method: Method
    """Which weights are trained, and how."""

    objective: Objective
    """What the training minimises."""

    data: Data
    """What is read, and how it becomes rows of tokens."""

    training: Training
    """How the weights are updated, and for how long."""

    deepspeed: DeepSpeed = DeepSpeed()
    """How the training state is spread over ranks and host memory."""

    checkpoint: Checkpoint
    """Where and how often the training state is saved."""

    evaluation: Evaluation = Evaluation()
    """When and against what the model is evaluated."""

    output: Output
    """Where the trained model is written, and as what."""

    trackers: Trackers | None = None
    """Where the run's metrics are sent while it trains."""

    workers: Workers
    """How much hardware the run gets."""

    storage: Storage | None = None
    """Credentials for S3, on a cluster."""

    hub: Hub | None = None
    """Credentials for `hf://` models, on a cluster."""

    service_account_name: ObjectName | None = None
    """Service account of the pods."""

    runtime_ref: RuntimeRef = RuntimeRef()
    """The FineTuneRuntime to run on: image, Ray version, pod templates, S3 endpoint."""

    queue_name: QueueName | None = None
    """Kueue queue that admits the job."""

    priority_class_name: ObjectName | None = None
    """Priority of the pods and in the queue."""

    failure_policy: FailurePolicy = FailurePolicy()
    """How often a failed run is tried again."""

    start_deadline_seconds: Seconds = 3600
    """Time from admission to the first step, for each attempt."""

    active_deadline_seconds: Seconds | None = None
    """Time with pods over all attempts; waiting in the queue and being suspended do not count."""

    no_progress_deadline_seconds: Seconds = 1800
    """Time without a finished step or evaluation after which the run counts as hanging."""

    termination_grace_period_seconds: Seconds | None = None
    """Time a stopped run has to commit a checkpoint; the runtime's when left out. Attempts after a slow commit have
    twice the time that it took, if that is more."""

    ttl_seconds_after_finished: CountOrZero | None = None
    """Time after which the finished job is deleted; never when left out, and nothing in storage is deleted with it."""

    suspend: bool = False
    """Stop after a checkpoint and give the hardware back until this is false again."""


class FineTuneJob(Part):
    """A fine-tuning job, on a laptop or on a cluster."""

    api_version: Literal["finetune.dev/v1alpha1"]
    """Version of this format."""

    kind: Literal["FineTuneJob"]
    """Kind of this object."""

    metadata: Metadata
    """Name and place of the job."""

    spec: JobSpec
    """What to train, on what, and where the result goes."""
