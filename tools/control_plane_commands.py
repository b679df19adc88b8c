"""How the programs of a control plane are started: pure functions from its options to command lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster_identity import USERS
from cluster_programs import program

ISSUER = "https://kubernetes.default.svc"
# What a cluster does by itself with the objects that the operator makes; nothing here stands in for a node.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
)
ETCD_SOCKET = "etcd.sock:0"  # etcd takes the port for a part of the file's name; relative, since such paths are short


@dataclass(frozen=True)
class Options:
    """What differs between control planes; flags that are given here come last, and so go first.

    The API server listens at `address`; Services get addresses in `<services>.0.0/16`; `users` are names and groups.
    """

    address: str = "127.0.0.1"
    services: str = "10.96"
    users: Mapping[str, Sequence[str]] = field(default_factory=lambda: USERS)
    api_flags: Sequence[str] = ()
    controllers: Sequence[str] = CONTROLLERS
    controller_flags: Sequence[str] = ()

    @property
    def kubernetes_service(self) -> str:
        """Address of the Service `kubernetes`: always the first of the range."""
        return f"{self.services}.0.1"


def etcd_command() -> list[str | Path]:
    """etcd on a socket in its folder, with nothing that has to survive a power cut."""
    urls = [f"--{kind}-client-urls=unix://{ETCD_SOCKET}" for kind in ("listen", "advertise")]
    flags = ["--name=control-plane", "--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn"]
    return [program("etcd"), *flags, *urls, "--listen-peer-urls=unix://etcd-peer.sock:0"]


def api_server_command(options: Options, port: int) -> list[str | Path]:
    """kube-apiserver; its files are in its folder."""
    return [
        program("kube-apiserver"),
        f"--etcd-servers=unix:{ETCD_SOCKET}",
        f"--bind-address={options.address}",
        f"--advertise-address={options.address}",
        f"--secure-port={port}",
        "--permit-port-sharing",
        "--endpoint-reconciler-type=none",
        f"--service-cluster-ip-range={options.services}.0.0/16",
        "--tls-cert-file=apiserver.crt",
        "--tls-private-key-file=apiserver.key",
        "--token-auth-file=tokens.csv",
        "--client-ca-file=ca.crt",
        "--authorization-mode=RBAC",
        "--allow-privileged",
        f"--service-account-issuer={ISSUER}",
        "--service-account-key-file=service-accounts.key",
        "--service-account-signing-key-file=service-accounts.key",
        "--profiling=false",
        *options.api_flags,
    ]


def controllers_command(options: Options, kubeconfig: Path) -> list[str | Path]:
    """kube-controller-manager."""
    return [
        program("kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        f"--controllers={','.join(options.controllers)}",
        "--secure-port=0",
        "--leader-elect=false",
        "--root-ca-file=ca.crt",
        "--kube-api-qps=1000",  # its own 20 would be what a test of a thousand jobs measures
        "--kube-api-burst=2000",
        "--profiling=false",
        *options.controller_flags,
    ]
