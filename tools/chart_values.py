"""The values of the Helm chart: types, defaults and meaning; values.yaml, its schema and its table come from here.

Names that others rely on are no values: the operator's objects are called `finetune-operator` whatever the release is,
because there is one operator in a cluster; Helm refuses a second release, as its cluster roles are there already.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_operator.api.runtime import RuntimeSpec
from finetune_trainer.spec.base import Count, Part
from finetune_trainer.spec.names import AnnotationValue, LabelKey, LabelValue, ObjectName

Amount = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")] | int
Amounts = dict[Annotated[str, Field(max_length=253)], Amount]
Labels = dict[LabelKey, LabelValue]
Annotations = dict[LabelKey, AnnotationValue]
ByKubernetes = dict[str, Any]
"""What the API server checks when the chart is installed."""


class LocalSecret(Part):
    """A Secret in the operator's namespace."""

    name: ObjectName
    """Name of the Secret."""


class Image(Part):
    """The operator's image."""

    repository: Annotated[str, Field(pattern=r"^[^\s:@/]+(:[0-9]+)?(/[^\s:@/]+)*$")] = (
        "registry.example.com/finetune/operator"
    )
    """Registry and name, without a tag. None is published yet: this one does not exist."""

    tag: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$")] = ""
    """Tag; the chart's appVersion when empty."""

    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Digest, `sha256:...`; it takes the place of the tag."""

    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull the image."""


class Process(Part):
    """The operator's process."""

    workers: Annotated[int, Field(ge=1, le=1024)] = 32
    """Jobs that are reconciled at a time, half of them only new or edited ones."""

    qps: Annotated[int, Field(ge=1, le=10000)] = 200
    """Requests to the API server per second; it obeys the API server's own limits besides."""

    burst: Annotated[int, Field(ge=1, le=100000)] = 400
    """Requests to the API server at once after a pause."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much it logs, as JSON lines."""


class KubeRay(Part):
    """KubeRay, which makes the Ray clusters."""

    namespace: ObjectName = "kuberay-system"
    """Namespace of KubeRay's operator. Jobs let nobody else submit their driver: with a wrong name none starts."""


class Kueue(Part):
    """Kueue, in whose queues jobs may wait."""

    enabled: bool = False
    """Show in jobs what Kueue says of them; the operator may then read the Workloads of all namespaces. Jobs wait in
    Kueue's queues without it too."""


class ServiceMonitor(Part):
    """Have the Prometheus operator scrape the metrics. Its CustomResourceDefinitions must be there."""

    enabled: bool = False
    """Make a ServiceMonitor."""

    labels: Labels = Field(default_factory=dict)
    """Labels by which your Prometheus finds it, for instance `release: kube-prometheus-stack`."""

    interval: Annotated[str, Field(pattern=r"^[0-9]+(ms|s|m)$")] = "30s"
    """Time between two scrapes."""


class Rules(Part):
    """Alerts for the Prometheus operator: operator down, errors, a slow queue, attempts that fail."""

    enabled: bool = False
    """Make a PrometheusRule."""

    labels: Labels = Field(default_factory=dict)
    """Labels by which your Prometheus finds it."""


class Prometheus(Part):
    """Monitoring."""

    namespace: ObjectName | Literal[""] = ""
    """The only namespace that may read the metrics of jobs' pods; empty: any."""

    service_monitor: ServiceMonitor = ServiceMonitor()
    """Have the Prometheus operator scrape the metrics. Its CustomResourceDefinitions must be there."""

    rules: Rules = Rules()
    """Alerts for the Prometheus operator: operator down, errors, a slow queue, attempts that fail."""


class Resources(Part):
    """What a pod of the operator may use."""

    requests: Amounts = Field(default_factory=lambda: dict[str, str | int](cpu="100m", memory="256Mi"))
    """What it is sure to get."""

    limits: Amounts = Field(default_factory=lambda: dict[str, str | int](memory="1Gi"))
    """What it gets at most. No limit of CPU: throttled, it could lose its leadership."""


class TenantRoles(Part):
    """Cluster roles for people who run jobs."""

    enabled: bool = True
    """Add FineTuneJobs to the cluster's roles `view`, `edit` and `admin`: who has one has it for jobs."""

    runtime_readers: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    """Groups that may see all FineTuneRuntimes, which belong to no namespace, for instance `system:authenticated`."""


class DefaultRuntime(Part):
    """The FineTuneRuntime `default`, for jobs that name none."""

    enabled: bool = True
    """Make it; without it, make one yourself, for instance from examples/runtimes/."""

    spec: RuntimeSpec = RuntimeSpec(image="registry.example.com/finetune/trainer:0.1.0", ray_version="2.60.0")
    """What the clusters of its jobs are made of: docs/api.md, or `kubectl explain finetuneruntime.spec`. Its image is
    not published yet either."""


class Definitions(Part):
    """The CustomResourceDefinitions, which Helm installs once and never changes."""

    check: bool = True
    """Refuse to install or upgrade while those in the cluster are not those of this chart."""


class Values(Part):
    """Values of the Helm chart finetune-operator."""

    replicas: Annotated[Count, Field(le=10)] = 2
    """Pods of the operator: one leads, the others stand by and hand progress reports on to it."""

    image: Image = Image()
    """The operator's image."""

    image_pull_secrets: Annotated[tuple[LocalSecret, ...], Field(max_length=16)] = ()
    """Secrets for the registry, as `[{name: registry}]`."""

    operator: Process = Process()
    """The operator's process."""

    kuberay: KubeRay = KubeRay()
    """KubeRay, which makes the Ray clusters."""

    kueue: Kueue = Kueue()
    """Kueue, in whose queues jobs may wait."""

    default_runtime: DefaultRuntime = DefaultRuntime()
    """The FineTuneRuntime `default`, for jobs that name none."""

    tenant_roles: TenantRoles = TenantRoles()
    """Cluster roles for people who run jobs."""

    crds: Definitions = Definitions()
    """The CustomResourceDefinitions, which Helm installs once and never changes."""

    prometheus: Prometheus = Prometheus()
    """Monitoring."""

    resources: Resources = Resources()
    """What a pod of the operator may use."""

    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = 65532
    """Numeric user and group of the pods; null on OpenShift, which chooses them."""

    priority_class_name: ObjectName | Literal[""] = ""
    """Priority of the pods; one above that of jobs keeps the operator alive on a full cluster."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels of the nodes that the pods may run on."""

    tolerations: Annotated[tuple[ByKubernetes, ...], Field(max_length=64)] = ()
    """Taints of nodes that the pods tolerate."""

    affinity: ByKubernetes = Field(default_factory=dict)
    """Affinity of the pods. They spread over nodes and zones as far as possible without it."""

    pod_labels: Labels = Field(default_factory=dict)
    """More labels of the pods, for instance to keep a service mesh out."""

    pod_annotations: Annotations = Field(default_factory=dict)
    """More annotations of the pods."""

    global_: Annotated[ByKubernetes, Field(alias="global")] = Field(default_factory=dict, exclude=True)
    """What Helm hands to a chart that is part of another; nothing here reads it."""
