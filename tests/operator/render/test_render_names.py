"""Names, owners and labels of what is rendered, and which parts all attempts share."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.job import ATTEMPT, JOB_NAME, JOB_UID, MANAGED_BY, ROLE
from finetune_operator.render import attempt_name
from looks import UID, make_job
from rendering import renamed, render, templates


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,34}[a-z0-9])?", fullmatch=True), st.uuids(), st.integers(1, 9999))
def test_names_are_what_kuberay_takes(name: str, uid: object, number: int) -> None:
    made = attempt_name(name, str(uid), number)
    assert len(made) <= 47
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made)


def test_a_job_that_is_created_again_under_the_same_name_gets_names_of_its_own() -> None:
    job = make_job()
    again = renamed(job, uid="3f0c6b1e-0000-4000-8000-000000000002")
    names = [{one["metadata"]["name"] for one in render(one).values()} for one in (job, again)]
    assert names[0].isdisjoint(names[1])


def test_everything_goes_with_the_job_and_is_found_by_its_labels() -> None:
    for made in render().values():
        metadata = made["metadata"]
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
            "FineTuneJob", "support-bot", UID, True,
        )  # fmt: skip
        assert owner["blockOwnerDeletion"] is False
        assert metadata["namespace"] == "team-a"
        assert metadata["labels"].items() >= {
            MANAGED_BY: "finetune-operator", JOB_NAME: "support-bot", JOB_UID: UID,
        }.items()  # fmt: skip


def test_pods_tell_their_attempt_and_role() -> None:
    for role, template in templates(render(number=7)).items():
        assert template["metadata"]["labels"].items() >= {JOB_UID: UID, ATTEMPT: "7", ROLE: role}.items()


def test_attempts_share_what_belongs_to_the_job_and_nothing_else() -> None:
    first, second = render(number=1), render(number=2)
    shared = ("ServiceAccount", "NetworkPolicy", "PodDisruptionBudget")
    assert [first[kind] for kind in shared] == [second[kind] for kind in shared]
    for kind in ("ConfigMap", "RayJob"):
        names = [one[kind]["metadata"]["name"] for one in (first, second)]
        assert [name.rpartition("-")[2] for name in names] == ["1", "2"]


def test_the_ray_job_comes_last() -> None:
    assert list(render()) == ["ServiceAccount", "NetworkPolicy", "PodDisruptionBudget", "ConfigMap", "RayJob"]


def test_changing_what_was_rendered_changes_no_later_rendering() -> None:
    before = render()
    spoilt = render()
    for template in templates(spoilt).values():
        template["spec"]["securityContext"].clear()
        template["spec"]["containers"][0]["securityContext"]["capabilities"].clear()
    spoilt["RayJob"]["metadata"]["annotations"].clear()
    assert render() == before != spoilt
