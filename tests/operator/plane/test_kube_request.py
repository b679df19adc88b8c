"""Requests are read as the API server reads them: verb, resource, namespace, name, and whether they change anything."""

from __future__ import annotations

import pytest

from kube_request import KubeRequest, parse

JOBS = "/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs"


@pytest.mark.parametrize(
    ("method", "target", "wanted"),
    [
        ("GET", "/api/v1/pods", ("list", "", "pods", "", "", "")),
        ("GET", "/api/v1/namespaces/a/pods?watch=true", ("watch", "", "pods", "", "a", "")),
        ("GET", "/api/v1/namespaces/a/pods?watch=0", ("list", "", "pods", "", "a", "")),
        ("GET", f"{JOBS}/x", ("get", "finetune.dev", "finetunejobs", "", "a", "x")),
        ("POST", JOBS, ("create", "finetune.dev", "finetunejobs", "", "a", "")),
        ("PUT", f"{JOBS}/x/status", ("update", "finetune.dev", "finetunejobs", "status", "a", "x")),
        ("DELETE", f"{JOBS}/x", ("delete", "finetune.dev", "finetunejobs", "", "a", "x")),
        ("DELETE", JOBS, ("deletecollection", "finetune.dev", "finetunejobs", "", "a", "")),
        ("GET", "/api/v1/namespaces/a", ("get", "", "namespaces", "", "", "a")),
        ("PUT", "/api/v1/namespaces/a/finalize", ("update", "", "namespaces", "finalize", "", "a")),
        ("GET", "/apis/ray.io/v1", ("get", "", "", "", "", "")),
        ("GET", "/readyz", ("get", "", "", "", "", "")),
    ],
)
def test_a_request_is_read_from_its_path(method: str, target: str, wanted: tuple[str, ...]) -> None:
    found = parse(method, target)
    assert (found.verb, found.group, found.resource, found.subresource, found.namespace, found.name) == wanted


@pytest.mark.parametrize(
    ("content_type", "verb"),
    [("application/apply-patch+yaml", "apply"), ("application/merge-patch+json", "patch")],
)
def test_a_server_side_apply_is_told_from_other_patches(content_type: str, verb: str) -> None:
    assert parse("PATCH", f"{JOBS}/x?fieldManager=f", content_type).verb == verb


def flags(request: KubeRequest) -> tuple[bool, bool]:
    return request.is_write, request.is_step


@pytest.mark.parametrize(
    ("method", "target", "is_write", "is_step"),
    [
        ("POST", JOBS, True, True),
        ("POST", f"{JOBS}?dryRun=All", False, False),
        ("GET", JOBS, False, False),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", False, False),
        ("POST", "/api/v1/namespaces/a/serviceaccounts/b/token", False, False),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", True, False),
        ("POST", "/apis/events.k8s.io/v1/namespaces/a/events", True, False),
        ("POST", "/readyz", False, False),
    ],
)
def test_steps_are_the_writes_of_a_scenario(method: str, target: str, is_write: bool, is_step: bool) -> None:
    assert flags(parse(method, target)) == (is_write, is_step)
