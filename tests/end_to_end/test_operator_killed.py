"""The operator is killed in each phase of a job's life, and the life goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from end_to_end import misfortunes
from end_to_end.installation import NAMESPACE, Installation
from end_to_end.manifests import job
from end_to_end.tenant import Object, Tenant

STEPS = 400

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]


@pytest.fixture
def one_at_a_time(installation: Installation) -> Iterator[str]:
    """A runtime that runs one job at a time."""
    with installation.runtime("one-at-a-time", limits={"maxRunningJobs": 1}) as name:
        yield name


def kill_operator(installation: Installation) -> None:
    """Kill all replicas without a warning; their Deployment makes new ones."""
    words = ("delete", "pods", "--selector=app.kubernetes.io/name=finetune-operator", "--grace-period=0", "--force")
    installation.kubectl(*words, namespace=NAMESPACE)


def attempts(status: Object) -> list[tuple[int, str]]:
    """Number and outcome of all attempts; one that runs has none."""
    return [(one["number"], one.get("outcome", "")) for one in status["attempts"]]


def test_a_life_is_the_same_with_the_operator_killed_in_each_of_its_phases(
    tenant: Tenant, one_at_a_time: str, installation: Installation
) -> None:
    def apply(name: str, steps: int = STEPS) -> str:
        return tenant.apply(job(tenant.name, name, steps=steps, runtimeRef={"name": one_at_a_time}))

    first = apply("first")
    tenant.until_phase(first, "Training")
    name = apply("watched")
    for phase in ("Queued", "Starting", "Training"):
        tenant.until_phase(name, phase, 400)
        kill_operator(installation)

    tenant.until_step(name, 1)
    misfortunes.suspend(tenant, name, True)
    for phase in ("Stopping", "Suspended"):
        tenant.until_phase(name, phase)
        kill_operator(installation)
    misfortunes.until_no_pods(tenant, name)
    assert attempts(tenant.status(name)) == [(1, "Stopped")]

    misfortunes.suspend(tenant, name, False)
    tenant.until_phase(name, "Restarting")
    kill_operator(installation)
    over = tenant.until_phase(name, "Succeeded", 400)
    kill_operator(installation)
    tenant.until_phase(apply("next", steps=10), "Succeeded", 400)  # the operator is back, and has seen them all

    assert attempts(over) == [(1, "Stopped"), (2, "Succeeded")]
    assert tenant.status(name) == over
    assert tenant.commits(name) == sorted(set(tenant.commits(name)))
    assert tenant.adapter(name) == tenant.adapter(first)
