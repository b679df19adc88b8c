"""The rights that the chart gives are exactly those that the operator's code asks for, on a real API server."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Any

import pytest

from chart_release import HOME, OPERATOR, Release
from cluster_programs import kueue_crds
from control_plane import ControlPlane, KubectlFailed
from every_request import Place, send_everything
from finetune_operator.application import SECRET
from finetune_operator.kube import Client, resources
from finetune_operator.kube.resources import WORKLOADS, Resource
from kube_proxy import kube_proxy
from kube_request import KubeRequest

pytestmark = pytest.mark.cluster

TENANT = "team-a"
Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""


@pytest.fixture(scope="module")
def tenant(platform: ControlPlane) -> str:
    """A namespace of somebody else, in a cluster with Kueue."""
    platform.install_crds(*kueue_crds())
    platform.kubectl("create", "namespace", TENANT)
    platform.kubectl("create", "serviceaccount", "default", namespace=TENANT)  # no controller runs that would make it
    return TENANT


@pytest.fixture
def account(release: Release) -> Path:
    """A kubeconfig of the service account that the chart makes, with every right that a value may give."""
    release.install("--set=kueue.enabled=true")
    return release.plane.service_account(HOME, OPERATOR)


def granted(role: dict[str, Any]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(request: KubeRequest) -> Right:
    verb = "patch" if request.verb == "apply" else request.verb
    return request.group, "/".join(filter(None, (request.resource, request.subresource))), verb


def kinds_in_the_code() -> set[tuple[str, str]]:
    """Group and plural of every kind that the operator's code uses, wherever it does.

    `finetune doctor` is left out: it has the rights of whoever runs it.
    """
    package = Path(resources.__file__).parents[1]
    names = {
        alias.name
        for path in package.rglob("*.py")
        if package / "doctor" not in path.parents
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == resources.__name__
        for alias in node.names
    }
    kinds = [found for name in names if isinstance(found := getattr(resources, name), Resource)]
    return {(kind.group, kind.plural) for kind in kinds}


def test_the_operator_may_do_what_it_does_and_nothing_else(release: Release, account: Path, tenant: str) -> None:
    """With an admission plugin that lets nobody own, or hold up, what he could not delete."""

    async def send() -> None:
        async with (
            await Client.connect(str(proxy.kubeconfig(account))) as client,
            await Client.connect(str(release.plane.kubeconfig())) as admin,
        ):
            await send_everything(client, admin, Place(HOME, tenant), lambda: proxy.count("watch"))

    with kube_proxy(release.plane) as proxy:
        asyncio.run(send())
        at_home = {asked(request) for request in proxy.seen if request.namespace == HOME}
        elsewhere = {asked(request) for request in proxy.seen if request.namespace != HOME}
    assert elsewhere == granted(release.get("clusterrole"))
    assert at_home == granted(release.get("role"))
    assert {(group, resource.partition("/")[0]) for group, resource, _ in elsewhere | at_home} == kinds_in_the_code()


def test_kueue_is_read_only_where_it_is_wanted(release: Release) -> None:
    release.install()
    assert not {right for right in granted(release.get("clusterrole")) if right[0] == WORKLOADS.group}


FORBIDDEN = {
    TENANT: [
        "get secrets",
        "list secrets",
        "create secrets",
        "create serviceaccounts/token",
        "create pods",
        "create pods/exec",
        "get pods/log",
        "update finetunejobs",
        "create finetunejobs",
        "patch configmaps",
        "list configmaps",
        "patch rayjobs",
        "create rolebindings",
        "create leases",
    ],
    HOME: ["list secrets", "get secrets/another", "patch secrets/another", "delete secrets", "get leases/another"],
    "": [
        "patch finetuneruntimes",
        "get nodes",
        "list namespaces",
        "create clusterrolebindings",
        "impersonate users",
        "patch customresourcedefinitions",
    ],
}
ALLOWED = {
    TENANT: ["create rayjobs", "patch finetunejobs --subresource=status"],
    HOME: [f"get secrets/{SECRET}"],
    "": [],
}


def may(plane: ControlPlane, account: Path, namespace: str, question: str) -> bool:
    verb, resource, *more = question.split()
    if resource.endswith(("/token", "/exec", "/log")):
        resource, _, part = resource.partition("/")
        more = [f"--subresource={part}"]
    try:
        plane.kubectl("auth", "can-i", "--quiet", verb, resource, *more, user=account, namespace=namespace or None)
    except KubectlFailed as failure:
        assert "error" not in failure.stderr.lower(), failure.stderr
        return False
    return True


@pytest.mark.usefixtures("tenant")
def test_it_can_neither_read_secrets_nor_give_itself_more(release: Release, account: Path) -> None:
    for namespace, forbidden in FORBIDDEN.items():
        questions = [*forbidden, *ALLOWED[namespace]]
        yes = [one for one in questions if may(release.plane, account, namespace, one)]
        assert yes == ALLOWED[namespace]
