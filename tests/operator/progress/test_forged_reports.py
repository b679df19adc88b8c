"""Who may report: a pod of the job, with a token for this job that the API server knows. Nobody else."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from cluster_identity import key_pem, signing_key
from control_plane import ControlPlane
from endpoint import PREFIX, Endpoint, JobPod, claims_of, resigned
from finetune_operator.kube import Client
from finetune_operator.kube.resources import PODS
from finetune_operator.progress.tokens import (
    LONGEST,
    LONGEST_REFUSED,
    POD_NAME,
    POD_UID,
    Refusal,
    Sender,
    Tokens,
    judge,
)
from reports import body, step

REPORT = body(step(1))


def nothing_kept(endpoint: Endpoint, job: str) -> bool:
    return endpoint.mailbox.take(job) is None


def test_the_pod_of_a_job_reports_with_its_own_token(endpoint: Endpoint, pod: JobPod, token: str) -> None:
    assert endpoint.post(pod.job, REPORT, token) == (200, {"stopBy": None, "reason": ""})
    report = endpoint.mailbox.take(pod.job)
    assert report is not None
    assert report.attempt == 1


@pytest.mark.parametrize("path", ["progress", "status"])
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer x.y.z", "Bearer a.e30.c"])
def test_without_a_service_account_token_nothing_is_taken_and_nobody_is_asked(
    endpoint: Endpoint, pod: JobPod, header: str | None, path: str
) -> None:
    reviews = endpoint.reviews
    connection = endpoint.connect()
    headers = {} if header is None else {"Authorization": header}
    connection.request("POST", f"/v1/jobs/{pod.job}/{path}", body=REPORT, headers=headers)
    assert connection.getresponse().status == 401
    connection.close()
    assert nothing_kept(endpoint, pod.job)
    assert endpoint.reviews == reviews


@pytest.mark.parametrize("audience", ["https://kubernetes.default.svc", PREFIX, f"{PREFIX}/another-job"])
def test_a_token_for_another_audience_is_refused(endpoint: Endpoint, pod: JobPod, audience: str) -> None:
    status, answer = endpoint.post(pod.job, REPORT, endpoint.token(pod, audience))
    assert (status, answer["error"]) == (
        403,
        f"the token is not for this job: its audience must be '{PREFIX}/{pod.job}'",
    )
    assert nothing_kept(endpoint, pod.job)


def test_a_token_of_another_namespace_is_refused(endpoint: Endpoint, pod: JobPod, elsewhere: str) -> None:
    stranger = endpoint.pod(pod.job, namespace=elsewhere)  # with the labels of a pod of this job
    status, answer = endpoint.post(pod.job, REPORT, endpoint.token(stranger))
    assert (status, answer["error"]) == (403, "the token is of another namespace than the job")
    assert nothing_kept(endpoint, pod.job)


def test_a_pod_of_another_job_is_refused_even_with_this_jobs_audience(endpoint: Endpoint, pod: JobPod) -> None:
    other = endpoint.pod(endpoint.job())
    status, answer = endpoint.post(pod.job, REPORT, endpoint.token(other, f"{PREFIX}/{pod.job}"))
    assert (status, answer["error"]) == (403, f"pod {other.name} is none of this job")
    assert nothing_kept(endpoint, pod.job)


def test_a_token_that_is_bound_to_no_pod_is_refused(endpoint: Endpoint, pod: JobPod) -> None:
    status, answer = endpoint.post(pod.job, REPORT, endpoint.token(pod, bound=False))
    assert (status, answer["error"]) == (403, "the token is bound to no pod; mount a projected one")
    assert nothing_kept(endpoint, pod.job)


def test_a_token_that_has_expired_is_refused(
    endpoint: Endpoint, pod: JobPod, token: str, control_plane: ControlPlane
) -> None:
    key = (control_plane.folder / "service-accounts.key").read_bytes()
    now = int(time.time())
    assert endpoint.post(pod.job, REPORT, resigned(token, key, exp=now + 300))[0] == 200, "it is signed as it should be"
    status, answer = endpoint.post(pod.job, REPORT, resigned(token, key, exp=now - 1))
    assert (status, answer["error"]) == (401, "the token has expired; read its file again for every report")


@pytest.mark.parametrize("end", [10**400, -(10**400), float("inf"), float("nan"), True, "tomorrow", None])
def test_a_token_that_ends_at_no_time_is_refused(endpoint: Endpoint, pod: JobPod, token: str, end: object) -> None:
    reviews = endpoint.reviews
    assert endpoint.post(pod.job, REPORT, resigned(token, key_pem(signing_key()), exp=end))[0] == 401
    assert endpoint.reviews == reviews


def test_the_api_server_has_the_last_word_on_a_token_that_we_take_for_fresh(
    endpoint: Endpoint, pod: JobPod, token: str, control_plane: ControlPlane
) -> None:
    key = (control_plane.folder / "service-accounts.key").read_bytes()
    expired = resigned(token, key, exp=int(time.time()) - 60)
    late = Tokens(endpoint.client, PREFIX, clock=lambda: time.time() - 600)  # the clock of an operator that is late
    verdict = endpoint.run(late.sender(expired, pod.job, pod.namespace))
    assert verdict == Refusal(401, "the API server does not know the token, or no longer")


def test_a_token_with_the_right_claims_and_the_wrong_signature_is_refused(
    endpoint: Endpoint, pod: JobPod, token: str
) -> None:
    forged = resigned(token, key_pem(signing_key()), exp=int(time.time()) + 3600)
    status, answer = endpoint.post(pod.job, REPORT, forged)
    assert (status, answer["error"]) == (401, "the API server does not know the token, or no longer")
    assert nothing_kept(endpoint, pod.job)


def test_a_pod_that_has_taken_the_name_of_a_gone_one_is_not_taken_for_it(
    endpoint: Endpoint, pod: JobPod, token: str
) -> None:
    assert endpoint.post(pod.job, REPORT, token)[0] == 200
    successor = endpoint.known.pods[pod.namespace, pod.name]
    endpoint.known.pods[pod.namespace, pod.name] = successor | {"metadata": successor["metadata"] | {"uid": "new"}}
    assert endpoint.post(pod.job, REPORT, token)[0] == 403, "although the API server's word is remembered"
    del endpoint.known.pods[pod.namespace, pod.name]
    assert endpoint.post(pod.job, REPORT, token)[0] == 403


def test_a_report_for_a_job_that_does_not_exist_is_refused(endpoint: Endpoint, token: str) -> None:
    assert endpoint.post("7f2c9f0e-0000-0000-0000-000000000000", REPORT, token)[0] == 404


AUDIENCE = f"{PREFIX}/uid"
USER: dict[str, Any] = {"username": "system:serviceaccount:team-a:trainer", "extra": {POD_NAME: ["p"], POD_UID: ["u"]}}
GOOD: dict[str, Any] = {"authenticated": True, "audiences": [AUDIENCE], "user": USER}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({}, 401),
        (GOOD | {"authenticated": False}, 401),
        (GOOD | {"authenticated": "true"}, 401),
        (GOOD | {"audiences": None}, 403),
        (GOOD | {"audiences": [f"{AUDIENCE}0"]}, 403),
        (GOOD | {"user": None}, 403),
        (GOOD | {"user": USER | {"username": "team-a"}}, 403),
        (GOOD | {"user": USER | {"username": "system:serviceaccount:team-a-2:trainer"}}, 403),
        (GOOD | {"user": USER | {"extra": None}}, 403),
        (GOOD | {"user": USER | {"extra": {POD_NAME: ["p"]}}}, 403),
        (GOOD | {"user": USER | {"extra": {POD_NAME: [], POD_UID: ["u"]}}}, 403),
    ],
)
def test_a_review_that_does_not_say_all_of_it_is_a_refusal(status: dict[str, Any], code: int) -> None:
    """What a token says of itself is checked before; here the API server's word alone has to do."""
    assert judge(GOOD, AUDIENCE, "team-a") == Sender("team-a", "p", "u")
    verdict = judge(status, AUDIENCE, "team-a")
    assert isinstance(verdict, Refusal)
    assert verdict.status == code


def test_many_reports_with_one_token_cost_one_review(endpoint: Endpoint, pod: JobPod, token: str) -> None:
    reviews = endpoint.reviews

    async def ask() -> set[Sender | Refusal]:
        return set(await asyncio.gather(*(endpoint.tokens.sender(token, pod.job, pod.namespace) for _ in range(50))))

    assert endpoint.run(ask()) == {Sender(pod.namespace, pod.name, pod.uid)}
    assert endpoint.reviews == reviews + 1


def test_what_the_api_server_said_of_a_token_is_believed_for_a_minute_at_most(
    endpoint: Endpoint, pod: JobPod, token: str
) -> None:
    clock = [time.time()]
    tokens = Tokens(endpoint.client, PREFIX, clock=lambda: clock[0])

    def sender() -> Sender | Refusal:
        return endpoint.run(tokens.sender(token, pod.job, pod.namespace))

    before = endpoint.reviews
    assert isinstance(sender(), Sender)
    clock[0] += LONGEST - 1
    assert isinstance(sender(), Sender)
    assert endpoint.reviews == before + 1
    clock[0] += 1
    assert isinstance(sender(), Sender)
    assert endpoint.reviews == before + 2
    clock[0] = claims_of(token)["exp"]
    assert sender() == Refusal(401, "the token has expired; read its file again for every report")


def test_a_token_of_a_pod_that_is_deleted_is_refused(endpoint: Endpoint, pod: JobPod, token: str) -> None:
    endpoint.run(endpoint.client.delete(PODS, pod.namespace, pod.name, grace_seconds=0))
    status, answer = endpoint.post(pod.job, REPORT, token)
    assert (status, answer["error"]) == (401, "the API server does not know the token, or no longer")


def test_a_refusal_is_not_asked_for_again_and_again_but_not_believed_for_long(
    endpoint: Endpoint, pod: JobPod, token: str
) -> None:
    forged = resigned(token, key_pem(signing_key()), exp=int(time.time()) + 3600)
    clock = [time.time()]
    tokens = Tokens(endpoint.client, PREFIX, clock=lambda: clock[0])
    reviews = endpoint.reviews
    for _ in range(20):
        assert isinstance(endpoint.run(tokens.sender(forged, pod.job, pod.namespace)), Refusal)
    assert endpoint.reviews == reviews + 1
    clock[0] += LONGEST_REFUSED
    endpoint.run(tokens.sender(forged, pod.job, pod.namespace))
    assert endpoint.reviews == reviews + 2


def test_while_the_api_server_is_away_a_report_may_come_again(
    endpoint: Endpoint, pod: JobPod, token: str, tmp_path: Path, control_plane: ControlPlane
) -> None:
    away = tmp_path / "away.kubeconfig"
    away.write_text(control_plane.kubeconfig().read_text().replace(f":{control_plane.port}", ":1"))

    async def ask() -> Sender | Refusal:
        async with await Client.connect(str(away)) as client:
            return await Tokens(client, PREFIX).sender(token, pod.job, pod.namespace)

    assert endpoint.run(ask()) == Refusal(503, "the token could not be reviewed; come again")
