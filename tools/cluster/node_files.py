"""The configuration of what runs on a node: containerd, the pods' network, kubelet, kube-proxy."""

from __future__ import annotations

import json
from typing import Any

from cluster.layout import Layout, node_name

MACHINE_RUNTIME = "machine"
"""Runtime handler of pods that see this machine's own programs and Python environment."""

PAUSE = "localhost/pause:1"
SOCKET = "unix:///run/containerd/containerd.sock"


def containerd(layout: Layout, number: int, runc: str) -> str:
    """containerd.toml."""
    plain = f"runtime_type = 'io.containerd.runc.v2'\n  options = {{SystemdCgroup = false, BinaryName = '{runc}'}}"
    runtimes = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes"
    return f"""version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{PAUSE}'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
[{runtimes}.runc]
  {plain}
  base_runtime_spec = '{layout.folder}/plain.json'
[{runtimes}.{MACHINE_RUNTIME}]
  {plain}
  base_runtime_spec = '{layout.folder}/machine.json'
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '{layout.node(number)}/cni'
"""


def network(layout: Layout, number: int) -> str:
    """The CNI configuration: all pods of all nodes in one flat network, each node with addresses of its own.

    Pods go out through their node, where kube-proxy answers for the addresses of Services.
    """
    addresses = {
        "subnet": f"{layout.pods}.0.0/16",
        "rangeStart": f"{layout.pods}.{number}.10",
        "rangeEnd": f"{layout.pods}.{number}.250",
        "gateway": layout.address(number),
    }
    ipam = {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[addresses]]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": False, "ipMasq": False, "ipam": ipam}
    return json.dumps({"cniVersion": "1.0.0", "name": layout.name, "plugins": [bridge]})


def kubelet(layout: Layout, number: int) -> str:
    """KubeletConfiguration: a lost node is noticed within 10 s, and any version of cgroups will do."""
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout.address(number),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(layout.folder / "ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},  # of those who show a certificate of the API server's authority
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.name}/{node_name(number)}",
        "clusterDNS": [layout.dns],
        "clusterDomain": "cluster.local",
        "cpuCFSQuota": False,  # requests share the few cores that all nodes have; limits would leave them idle
        "containerRuntimeEndpoint": SOCKET,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,  # never: no registry has what a kubelet removes from a full disk
        "makeIPTablesUtilChains": False,
        "nodeLeaseDurationSeconds": 8,
        "nodeStatusUpdateFrequency": "2s",
        "oomScoreAdj": 0,  # less would take a capability that a container's root may not have
        "readOnlyPort": 0,
        "resolvConf": "",
    }
    return json.dumps(config, indent=1)


def kube_proxy(layout: Layout, number: int) -> str:
    """KubeProxyConfiguration: answers come back through the node, since pods would else reach each other directly."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(layout.folder / "system:kube-proxy.kubeconfig")},
        "clusterCIDR": f"{layout.pods}.0.0/16",
        "hostnameOverride": node_name(number),
        "mode": "iptables",
        "iptables": {"masqueradeAll": True, "minSyncPeriod": "0s"},
        # The machine's limit, which only its first network namespace may change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    return json.dumps(config, indent=1)


def corefile(layout: Layout) -> str:
    """CoreDNS: the cluster's names, and no others."""
    return f"""cluster.local in-addr.arpa {{
    bind {layout.dns}
    kubernetes {{
        kubeconfig coredns.kubeconfig
        ttl 2
    }}
    cache 2
}}
. {{
    bind {layout.dns}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
