"""What happens less often: a hung rank, a node behind a cut that comes back, a deletion while training."""

from __future__ import annotations

import pytest

from end_to_end import misfortunes
from end_to_end.manifests import EVERY, job
from end_to_end.tenant import Tenant, step_of

STEPS = 400

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]


@pytest.fixture
def undisturbed(tenant: Tenant) -> bytes:
    """The adapter of a job to which nothing happens."""
    name = tenant.apply(job(tenant.name, "undisturbed", steps=STEPS))
    tenant.until_phase(name, "Succeeded", 400)
    return tenant.adapter(name)


def test_a_rank_that_hangs_is_noticed_and_started_again(tenant: Tenant, undisturbed: bytes) -> None:
    name = tenant.apply(job(tenant.name, "hangs", steps=STEPS, noProgressDeadlineSeconds=60))
    tenant.until_step(name, EVERY)
    misfortunes.signal_rank(tenant, name, "SIGSTOP")
    status = tenant.until(name, "started again", lambda now: now.get("restarts") or len(now["attempts"]) > 1, 400)
    failed = [one["reason"] for one in status["attempts"] if one.get("outcome") == "Failed"]
    assert failed in ([], ["Hang"])
    tenant.until_phase(name, "Succeeded", 400)
    assert tenant.adapter(name) == undisturbed


def test_a_node_behind_a_cut_commits_nothing_more(tenant: Tenant, undisturbed: bytes) -> None:
    name = tenant.apply(job(tenant.name, "cut", steps=STEPS))
    tenant.until_step(name, EVERY)
    first = tenant.pods(name, "worker")[0]
    before = tenant.status(name)
    with misfortunes.node_cut_off(tenant, misfortunes.number_of_node(first)):
        tenant.until_step(name, step_of(before) + EVERY, 300)
    tenant.until_phase(name, "Succeeded", 400)
    assert tenant.adapter(name) == undisturbed
    assert tenant.commits(name) == sorted(set(tenant.commits(name)))


def test_a_deleted_job_commits_before_it_goes(tenant: Tenant) -> None:
    name = tenant.apply(job(tenant.name, "deleted", steps=3000, every=2))  # it is nearly always saving
    status = tenant.until_step(name, EVERY)
    tenant.kubectl("delete", "finetunejob", name, "--timeout=120s")
    assert misfortunes.gone(tenant, name)
    misfortunes.until_no_pods(tenant, name)
    assert tenant.commits(name)[-1] >= step_of(status)
    left = tenant.kubectl("get", "rayjobs,rayclusters,configmaps,networkpolicies,poddisruptionbudgets", "-o", "name")
    assert [one for one in left.split() if name in one] == []
