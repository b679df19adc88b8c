"""One job, and one thing after the other that happens to clusters: its model equals that of an undisturbed job."""

from __future__ import annotations

import pytest

from end_to_end import misfortunes
from end_to_end.manifests import EVERY, job
from end_to_end.tenant import Object, Tenant, step_of

STEPS = 600
MARGIN = 5
"""Steps that a job makes undisturbed between two misfortunes."""

pytestmark = pytest.mark.timeout(1500)


def attempts(status: Object) -> list[tuple[str, str]]:
    """Outcome and reason of the attempts that are over."""
    return [(one["outcome"], one["reason"]) for one in status["attempts"] if "outcome" in one]


def goes_on(tenant: Tenant, name: str, after: Object, seconds: float = 240) -> Object:
    """Wait until a job has trained beyond where it stood."""
    return tenant.until_step(name, step_of(after) + MARGIN, seconds)


def committed_at_its_end(status: Object, number: int) -> bool:
    """Whether an attempt ended with a commit of all that it had done."""
    return int(status["checkpoint"]["step"]) >= int(status["attempts"][number - 1]["lastStep"])


def test_a_job_survives_what_happens_to_clusters_with_the_same_model(tenant: Tenant) -> None:
    tenant.apply(job(tenant.name, "undisturbed", steps=STEPS))
    tenant.until_phase("undisturbed", "Succeeded", 300)
    name = tenant.apply(job(tenant.name, "disturbed", steps=STEPS))
    status = tenant.until_step(name, MARGIN)

    misfortunes.signal_rank(tenant, name)
    status = tenant.until(name, "restarted", lambda now: now.get("restarts") == 1)
    status = goes_on(tenant, name, status)
    assert attempts(status) == []

    misfortunes.delete_pod(tenant, name, "worker")
    status = tenant.until(name, "in its second attempt", lambda now: len(now["attempts"]) == 2)
    assert committed_at_its_end(status, 1)
    assert status["attempts"][0]["stepsLost"] < EVERY  # those of the killed rank
    status = goes_on(tenant, name, status)

    misfortunes.suspend(tenant, name, True)
    status = tenant.until_phase(name, "Suspended")
    assert attempts(status)[-1] == ("Stopped", "Suspended")
    assert status["attempts"][-1]["stepsLost"] == 0
    misfortunes.suspend(tenant, name, False)
    status = goes_on(tenant, name, status)

    misfortunes.delete_pod(tenant, name, "head")
    status = tenant.until(name, "in its fourth attempt", lambda now: len(now["attempts"]) == 4)
    assert committed_at_its_end(status, 3)
    status = goes_on(tenant, name, status)

    with misfortunes.drained(tenant, misfortunes.number_of_node(tenant.pods(name, "worker")[0])):
        status = tenant.until(name, "in its fifth attempt", lambda now: len(now["attempts"]) == 5)
        assert committed_at_its_end(status, 4)
        status = goes_on(tenant, name, status)

    with misfortunes.node_lost(tenant, misfortunes.number_of_node(tenant.pods(name, "worker")[0])):
        status = goes_on(tenant, name, tenant.status(name))

    tenant.until_phase(name, "Succeeded", 300)
    assert tenant.adapter(name) == tenant.adapter("undisturbed")
