"""Pod Security `restricted`: what a pod may not ask for, as far as a runtime can bring it in.

https://kubernetes.io/docs/concepts/security/pod-security-standards/. Members that a runtime may not set at all (host
namespaces, for instance) are not looked at here. Each function gets the path at which the runtime writes the thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_trainer.errors import Problem

VOLUME_SOURCES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
SECCOMP = ("RuntimeDefault", "Localhost")
CAPABILITIES = ("NET_BIND_SERVICE",)
REFUSED = "is refused by Pod Security `restricted`, which pods of jobs keep to"

Found = Mapping[str, Any]


def members(value: Any) -> Found:
    """The members of an object; none of anything else, whose shape the API server refuses in its own words."""
    return value if isinstance(value, Mapping) else {}


def elements(value: Any) -> list[Any]:
    """The elements of a list; none of anything else."""
    return value if isinstance(value, list) else []


def pod_context_problems(context: Found, path: str) -> Iterator[Problem]:
    """The pod's security context, with which the runtime's is merged already."""
    if context.get("runAsNonRoot") is not True:
        yield Problem(f"{path}.runAsNonRoot", context.get("runAsNonRoot"), f"{REFUSED}: write true")
    if "seccompProfile" not in context:
        yield Problem(f"{path}.seccompProfile", None, f"{REFUSED}: remove this null")
    yield from _common(context, path)
    for index, sysctl in enumerate(elements(context.get("sysctls"))):
        if members(sysctl).get("name") not in SYSCTLS:
            yield Problem(f"{path}.sysctls[{index}]", sysctl, f"{REFUSED}: remove it")


def container_context_problems(context: Found, path: str) -> Iterator[Problem]:
    """A container's security context, with which the runtime's is merged already."""
    if context.get("runAsNonRoot") is False:
        yield Problem(f"{path}.runAsNonRoot", False, f"{REFUSED}: write true")
    yield from _common(context, path)
    if context.get("privileged"):
        yield Problem(f"{path}.privileged", True, f"{REFUSED}: write false")
    if context.get("allowPrivilegeEscalation") is not False:
        value = context.get("allowPrivilegeEscalation")
        yield Problem(f"{path}.allowPrivilegeEscalation", value, f"{REFUSED}: write false")
    if context.get("procMount") not in (None, "Default"):
        yield Problem(f"{path}.procMount", context["procMount"], f"{REFUSED}: remove it")
    capabilities = members(context.get("capabilities"))
    added = [one for one in elements(capabilities.get("add")) if one not in CAPABILITIES]
    if added:
        yield Problem(f"{path}.capabilities.add", added, f"{REFUSED}: remove it")
    if "ALL" not in elements(capabilities.get("drop")):
        value = capabilities.get("drop")
        yield Problem(f"{path}.capabilities.drop", value, f"{REFUSED}: write [ALL], or leave it out")


def _common(context: Found, path: str) -> Iterator[Problem]:
    if context.get("runAsUser") == 0:
        yield Problem(f"{path}.runAsUser", 0, f"{REFUSED}: write another user than root")
    if "seccompProfile" in context:
        profile = members(context["seccompProfile"]).get("type")
        if profile not in SECCOMP:
            yield Problem(f"{path}.seccompProfile.type", profile, f"{REFUSED}: write {' or '.join(SECCOMP)}")


def volume_problems(volumes: list[Found], path: str) -> Iterator[Problem]:
    """Volumes that reach the node."""
    for index, volume in enumerate(volumes):
        yield from source_problems(
            {name: value for name, value in volume.items() if name != "name"}, f"{path}[{index}]"
        )


def source_problems(volume: Found, path: str) -> Iterator[Problem]:
    """Sources of one volume, which is without its name, that reach the node."""
    for source in sorted(set(volume) - VOLUME_SOURCES):
        advice = f"write one of {', '.join(sorted(VOLUME_SOURCES))}"
        yield Problem(f"{path}.{source}", volume[source], f"{REFUSED}: {advice}")


def port_problems(ports: list[Any], path: str) -> Iterator[Problem]:
    """Ports that are the node's too."""
    for index, port in enumerate(ports):
        if members(port).get("hostPort"):
            yield Problem(f"{path}[{index}].hostPort", port["hostPort"], f"{REFUSED}: remove it")
