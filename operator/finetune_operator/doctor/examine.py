"""Reads of a cluster what the checks need, in their order; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_operator.api.runtime import RuntimeSpec, RuntimeStorage
from finetune_operator.crd.documents import crds
from finetune_operator.doctor import installation, tenancy
from finetune_operator.doctor.finding import Finding, Seen, State
from finetune_operator.doctor.storage import probe_store
from finetune_operator.kube import AccessError, ApiError, Client, Forbidden, NotFound
from finetune_operator.kube.resources import (
    ACCESS_REVIEWS,
    CONFIGMAPS,
    DEFINITIONS,
    DEPLOYMENTS,
    JOBS,
    LEASES,
    NAMESPACES,
    NODES,
    RUNTIMES,
    SECRETS,
    Resource,
)

API_SERVER = "API server"


@dataclass(frozen=True)
class Question:
    """What to check. `kubeconfig` None: the service account of the pod; `namespace` None: no tenant's."""

    kubeconfig: str | None
    context: str | None
    runtime: str
    namespace: str | None
    secret: str | None
    bucket: str | None


async def examine(question: Question) -> list[Finding]:
    """Every finding; where the server stops answering, that is a finding and nothing more on it is checked."""
    found: list[Finding] = []
    storage = await _connect(question, found)
    if question.bucket is not None:
        found.append(probe_store(question.bucket, storage))
    return found


async def _connect(question: Question, found: list[Finding]) -> RuntimeStorage | None:
    """Append what was found on the server, if it answers; returns what the runtime says of the store."""
    try:
        async with await Client.connect(question.kubeconfig, question.context) as client:
            try:
                return await _examine(client, question, found)
            except ApiError as error:
                remedy = "check the address, the network and the credentials in your kubeconfig (kubectl version)"
                found.append(Finding(API_SERVER, State.FAILED, f"{client.server}: {error}", remedy))
    except AccessError as error:
        found.append(Finding(API_SERVER, State.FAILED, str(error), "name it with --kubeconfig, or in KUBECONFIG"))
    return None


async def _examine(client: Client, question: Question, found: list[Finding]) -> RuntimeStorage | None:
    found.append(installation.judge_server(client.server, await client.server_version()))
    for document in crds().values():
        found.append(installation.judge_crd(document, await _get(client, DEFINITIONS, document["metadata"]["name"])))
    found.append(installation.judge_ray_crd(await _get(client, DEFINITIONS, "rayjobs.ray.io")))
    await _operators(client, found)
    finding, runtime = tenancy.judge_runtime(question.runtime, await _get(client, RUNTIMES, question.runtime))
    found.append(finding)
    if runtime is not None:
        found.append(tenancy.judge_nodes(runtime.gpu, await _list(client, NODES)))
    if question.namespace is not None:
        await _tenant(client, question.namespace, question.secret, runtime, found)
    return runtime.storage if runtime is not None else None


async def _operators(client: Client, found: list[Finding]) -> None:
    deployments = await _list(client, DEPLOYMENTS)
    found += [*installation.judge_kuberay(deployments), *installation.judge_operator(deployments)]
    ours = installation.operator_among(deployments.objects)
    if ours is not None:
        lease = await _get(client, LEASES, installation.OPERATOR, ours["metadata"]["namespace"])
        found.append(installation.judge_lease(ours, lease, datetime.now(UTC)))


async def _tenant(
    client: Client, namespace: str, secret: str | None, runtime: RuntimeSpec | None, found: list[Finding]
) -> None:
    found.append(tenancy.judge_namespace(namespace, await _get(client, NAMESPACES, namespace)))
    found.append(tenancy.judge_rights(namespace, await _review(client, namespace)))
    if runtime is not None and (wanted := runtime.storage.ca_config_map) is not None:
        seen = await _get(client, CONFIGMAPS, wanted.name, namespace)
        found.append(tenancy.judge_authority(namespace, wanted, seen))
    if secret is not None:
        found.append(tenancy.judge_secret(namespace, secret, await _get(client, SECRETS, secret, namespace)))


async def _review(client: Client, namespace: str) -> dict[str, object]:
    asked = {"namespace": namespace, "verb": "create", "group": JOBS.group, "resource": JOBS.plural}
    body = {
        "apiVersion": ACCESS_REVIEWS.api_version,
        "kind": ACCESS_REVIEWS.kind,
        "spec": {"resourceAttributes": asked},
    }
    return await client.create(ACCESS_REVIEWS, body)


async def _get(client: Client, resource: Resource, name: str, namespace: str | None = None) -> Seen:
    try:
        return Seen((await client.get(resource, namespace, name),))
    except NotFound:
        return Seen()
    except Forbidden:
        return Seen(refused=_right("get", resource, namespace))


async def _list(client: Client, resource: Resource) -> Seen:
    try:
        return Seen(tuple([one async for page in client.pages(resource) for one in page.items]))
    except Forbidden:
        return Seen(refused=_right("list", resource, None))


def _right(verb: str, resource: Resource, namespace: str | None) -> str:
    kind = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
    everywhere = " in all namespaces" if resource.namespaced else ""
    return f"{verb} {kind}" + (f" in namespace {namespace}" if namespace else everywhere)
