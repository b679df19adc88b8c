"""What the operator's process is told: by flags, or by the environment that the chart sets."""

from __future__ import annotations

import argparse
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Where the operator runs and how much it may ask for.

    `identity` is unique to this process. `address` is where other replicas reach it, `service` where pods do.
    `kubeconfig` None: the service account of the pod. `listen` None: on every address.
    """

    kubeconfig: str | None
    namespace: str
    identity: str
    address: str
    service: str
    progress_port: int
    health_port: int
    workers: int
    qps: float
    burst: int
    kuberay_namespace: str
    metrics_namespace: str
    audience_prefix: str
    kueue: bool
    log_level: str
    listen: str | None = None

    @property
    def progress_address(self) -> str:
        """Where other replicas hand reports on to, when this one leads."""
        return host_port(self.address, self.progress_port)


def host_port(host: str, port: int) -> str:
    """A host and a port as in a URL: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_settings(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read flags, with defaults from the environment; exits with a message when one makes no sense."""
    parser = argparse.ArgumentParser(prog="finetune-operator", description="Launches and watches FineTuneJobs.")
    add = parser.add_argument
    add("--kubeconfig", default=environ.get("KUBECONFIG"), help="kubeconfig file (default: the pod's service account)")
    add("--namespace", default=environ.get("POD_NAMESPACE", "finetune-system"), help="the operator's own namespace")
    add("--identity", help="name of this process, which no other has (default: name of the pod or host, and a number)")
    add("--address", default=environ.get("POD_IP", "127.0.0.1"), help="where other replicas reach this one")
    add("--service", help="host name by which pods reach the operator (default: finetune-operator.<namespace>.svc)")
    add("--listen", help="address to listen on (default: every one)")
    add("--progress-port", type=int, default=8443, help="port for progress reports, over TLS")
    add("--health-port", type=int, default=8080, help="port for /healthz, /readyz and /metrics")
    add("--workers", type=int, default=32, help="jobs reconciled at a time, half of them only new or edited ones")
    add("--qps", type=float, default=200, help="requests to the API server per second")
    add("--burst", type=int, default=400, help="requests to the API server at once after a pause")
    add("--kuberay-namespace", default="", help="namespace of KubeRay's operator (default: our own)")
    add("--metrics-namespace", default="", help="namespace that may read the pods' metrics (default: any)")
    add("--audience-prefix", default="finetune.dev/jobs", help="audience of the runs' tokens, before the job's uid")
    add("--kueue", action="store_true", help="show what Kueue says of jobs in its queues, once its API is there")
    add("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    found = vars(parser.parse_args(arguments))
    # A container that is started again has the name of its pod too, and must not take itself for the one before.
    host = environ.get("POD_NAME") or socket.gethostname()
    found["identity"] = found["identity"] or f"{host}-{secrets.token_hex(4)}"
    found["service"] = found["service"] or f"finetune-operator.{found['namespace']}.svc"
    return Settings(**found)
