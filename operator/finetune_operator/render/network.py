"""Who may connect to a job's pods, and where they may connect to."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.job import JOB_UID, Job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.render.names import Object, child_name
from finetune_operator.render.places import AGENT_PORT, HEAD_PORTS
from finetune_operator.render.reporting import Operator
from finetune_operator.render.support import owned

DNS_PORT = 53
NODE_METADATA = {"0.0.0.0/0": "169.254.169.254/32", "::/0": "fd00:ec2::254/128"}
"""All addresses, and among them the service that hands out the node's own cloud credentials."""


def network_policy(job: Job, runtime: RuntimeSpec, operator: Operator) -> Object:
    """In: the job's own pods, KubeRay to the driver's API, Prometheus. Out: everywhere but the nodes' metadata service.

    Where the S3 store is, inside or outside the cluster and behind which ports, only the platform team knows; it
    narrows this with the runtime's `egress`. A policy of its own could not, as policies only add to each other.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned(job, child_name(job.name, job.uid)),
        "spec": {
            "podSelector": _own(job),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": list(_ingress(job, operator)),
            "egress": list(_egress(job, runtime, operator)),
        },
    }


def _ingress(job: Job, operator: Operator) -> Iterator[Object]:
    yield {"from": [{"podSelector": _own(job)}]}
    kuberay = _namespace(operator.kuberay_namespace or operator.namespace)
    yield {"from": [kuberay], "ports": [_tcp(HEAD_PORTS["dashboard"]), _tcp(AGENT_PORT)]}
    prometheus = _namespace(operator.metrics_namespace) if operator.metrics_namespace else {"namespaceSelector": {}}
    yield {"from": [prometheus], "ports": [_tcp(HEAD_PORTS["metrics"])]}


def _egress(job: Job, runtime: RuntimeSpec, operator: Operator) -> Iterator[Object]:
    yield {"to": [{"podSelector": _own(job)}]}
    yield {"ports": [{"port": DNS_PORT, "protocol": "UDP"}, _tcp(DNS_PORT)]}
    yield {"to": [_namespace(operator.namespace)], "ports": [_tcp(operator.port)]}
    if runtime.egress is not None:
        yield from runtime.egress
        return
    addresses = [{"ipBlock": {"cidr": all_, "except": [one]}} for all_, one in NODE_METADATA.items()]
    yield {"to": [{"namespaceSelector": {}}, *addresses]}  # Cilium's address blocks do not cover the cluster's own pods


def _own(job: Job) -> Object:
    return {"matchLabels": {JOB_UID: job.uid}}


def _namespace(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _tcp(port: int) -> Object:
    return {"port": port, "protocol": "TCP"}
