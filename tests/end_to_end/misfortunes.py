"""What happens to clusters: each function lets one thing happen to a running job, for real."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.layout import node_name
from control_plane import KubectlFailed
from end_to_end.tenant import Object, Tenant

# A rank's process names itself after Ray's actor; `exec` comes as the pod's own user, who may signal it.
KILL_RANK = """
import os, pathlib, signal
for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit() and (entry / 'cmdline').read_bytes().startswith(b'ray::RayTrainWorker'):
        os.kill(int(entry.name), signal.{signal})
        print(entry.name)
"""
POD_SECONDS = 120.0


def signal_rank(tenant: Tenant, job: str, signal: str = "SIGKILL", worker: int = 0) -> None:
    """Send a signal to the rank in one worker pod of a job."""
    signal_rank_in(tenant, tenant.pods(job, "worker")[worker]["metadata"]["name"], signal)


def signal_rank_in(tenant: Tenant, pod: str, signal: str = "SIGKILL") -> None:
    """Send a signal to the rank in a pod."""
    words = ("exec", pod, "-c", "ray-worker", "--", "python3", "-c", KILL_RANK.format(signal=signal))
    assert tenant.kubectl(*words).strip(), f"no rank in {pod}"


def delete_pod(tenant: Tenant, job: str, role: str) -> Object:
    """Ask for the deletion of one pod, as anybody may; returns it."""
    pod = tenant.pods(job, role)[0]
    tenant.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    return pod


def number_of_node(pod: Object) -> int:
    """The node that a pod runs on."""
    return int(pod["spec"]["nodeName"].rsplit("-", 1)[1])


def evict(tenant: Tenant, pod: Object) -> None:
    """Evict a pod through the API, as a drain does; KubectlFailed while the budget forbids it."""
    name = pod["metadata"]["name"]
    body = f'{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{name}"}}}}'
    tenant.kubectl("create", "--raw", f"/api/v1/namespaces/{tenant.name}/pods/{name}/eviction", "-f", "-", input=body)


@contextmanager
def cordoned(tenant: Tenant, number: int) -> Iterator[None]:
    """A node that takes no new pods."""
    tenant.kubectl("cordon", node_name(number))
    try:
        yield
    finally:
        tenant.kubectl("uncordon", node_name(number))


@contextmanager
def drained(tenant: Tenant, number: int) -> Iterator[None]:
    """`kubectl drain` of a node, which is taken into service again in the end."""
    words = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=180s")
    try:
        tenant.kubectl("drain", node_name(number), *words)
        yield
    finally:
        tenant.kubectl("uncordon", node_name(number))


@contextmanager
def node_lost(tenant: Tenant, number: int) -> Iterator[None]:
    """A node killed with everything on it; it comes back in the end."""
    node = tenant.cluster.nodes[number]
    node.kill()
    try:
        yield
    finally:
        node.start()
        tenant.cluster.wait_for_node(number)


@contextmanager
def node_cut_off(tenant: Tenant, number: int) -> Iterator[None]:
    """A node whose cable is pulled: what runs on it lives on and reaches nobody."""
    node = tenant.cluster.nodes[number]
    node.cut()
    try:
        yield
    finally:
        node.heal()
        tenant.cluster.wait_for_node(number)


def until_no_pods(tenant: Tenant, job: str, seconds: float = POD_SECONDS) -> None:
    """Wait until nothing of a job runs."""
    deadline = time.monotonic() + seconds
    while pods := tenant.pods(job):
        if time.monotonic() > deadline:
            raise AssertionError(f"pods are left: {[pod['metadata']['name'] for pod in pods]}")
        time.sleep(0.25)


def suspend(tenant: Tenant, job: str, value: bool) -> None:
    """Write spec.suspend."""
    patch = f'{{"spec": {{"suspend": {str(value).lower()}}}}}'
    tenant.kubectl("patch", "finetunejob", job, "--type=merge", "--patch", patch)


def gone(tenant: Tenant, job: str) -> bool:
    """Whether a job is there no more."""
    try:
        tenant.job(job)
    except KubectlFailed as error:
        return "NotFound" in error.stderr
    return False
