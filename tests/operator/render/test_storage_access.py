"""How pods get at the store: whose token is exchanged where and for which role; and where models outlive a pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from faulty_proxy import faulty_proxy
from finetune_operator.api.job import Job
from finetune_trainer.store import StorageRefused, open_store, probe
from finetune_trainer.store.s3_client import MEMBERS
from issuer import Issuer
from looks import make_job
from rendering import Object, containers, render, runtime, templates, values
from s3_bucket import Bucket
from s3_server import REGION, S3Server

ROLE = "arn:aws:iam::000000000000:role/{namespace}/{serviceAccount}"
SECRET = {"secretRef": {"name": "keys"}}
KEY = "arn:aws:kms:eu-1:123456789012:key/0e1b6a52"


def tokens(template: Object) -> dict[str, Object]:
    """Projected service account tokens of a pod by the path of their file."""
    (container,) = template["spec"]["containers"]
    folders = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    return {
        f"{folders[volume['name']]}/{source['serviceAccountToken']['path']}": source["serviceAccountToken"]
        for volume in template["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
    }


def test_every_pod_takes_the_runtimes_role_with_a_token_for_its_audience() -> None:
    identity = {"roleArn": ROLE, "audience": "store.example", "stsEndpoint": "https://sts.example"}
    job = make_job(serviceAccountName="trainer")
    for template in templates(render(job, runtime(storage={"webIdentity": identity}), number=3)).values():
        told = values(template["spec"]["containers"][0])
        assert told["AWS_ROLE_ARN"] == f"arn:aws:iam::000000000000:role/{job.namespace}/trainer"
        assert told["AWS_ENDPOINT_URL_STS"] == "https://sts.example"
        assert told["AWS_ROLE_SESSION_NAME"].endswith("-3")
        token = tokens(template)[told["AWS_WEB_IDENTITY_TOKEN_FILE"]]
        assert (token["audience"], token["expirationSeconds"]) == ("store.example", 3600)


def test_without_a_service_account_the_role_is_that_of_the_one_made_for_the_job() -> None:
    rendered = render(on=runtime(storage={"webIdentity": {"roleArn": ROLE}}))
    told = values(containers(rendered)["worker"])
    assert told["AWS_ROLE_ARN"].rpartition("/")[2] == rendered["ServiceAccount"]["metadata"]["name"]
    assert "AWS_ENDPOINT_URL_STS" not in told


@pytest.mark.parametrize(
    ("job", "storage"),
    [(make_job(storage=SECRET), {"webIdentity": {"roleArn": ROLE}}), (make_job(serviceAccountName="annotated"), {})],
    ids=["a Secret", "the cloud's own webhook"],
)
def test_nothing_is_exchanged_where_something_else_gives_the_credentials(job: Job, storage: Object) -> None:
    """On EKS a webhook adds these variables and a token of its own to pods of an annotated service account."""
    rendered = templates(render(job, runtime(storage=storage)))
    for template in rendered.values():
        told = values(template["spec"]["containers"][0])
        assert not {"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ENDPOINT_URL_STS"} & set(told)
    assert [len(tokens(rendered[role])) for role in ("head", "worker")] == [1, 0]  # the head's is for the operator


def test_what_a_pod_is_given_opens_its_tenants_bucket_and_no_other(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, job = Issuer(), make_job(serviceAccountName="trainer")
    s3.add_user("others", "rendered-others")
    user = s3.add_user("ours", "rendered-ours").access
    identity = {"roleArn": ROLE, "audience": "store.example", "stsEndpoint": s3.endpoint}
    storage = {"endpoint": s3.endpoint, "region": REGION, "webIdentity": identity}
    template = templates(render(job, runtime(storage=storage)))["worker"]
    told = values(template["spec"]["containers"][0])
    s3.trust(issuer.name, "store.example", issuer.jwks)
    subject = f"system:serviceaccount:{job.namespace}:{template['spec']['serviceAccountName']}"
    s3.add_role(told["AWS_ROLE_ARN"], user, [subject])
    for name, value in told.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    (tmp_path / "token").write_text(
        issuer.token(subject, tokens(template)[told["AWS_WEB_IDENTITY_TOKEN_FILE"]]["audience"])
    )
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    probe(open_store("s3://rendered-ours/runs"))
    with pytest.raises(StorageRefused, match="on the bucket 'rendered-others'"):
        probe(open_store("s3://rendered-others/runs"))


@pytest.mark.parametrize(
    "arn", ["arn:aws:iam::0:role/{user}", "role/finetune-of-the-team", "arn:aws:iam::0:role/a b c"]
)
def test_a_role_that_cannot_be_is_refused(arn: str) -> None:
    with pytest.raises(ValidationError, match="roleArn"):
        runtime(storage={"webIdentity": {"roleArn": arn}})


def test_a_region_is_told_in_both_variables_since_each_sdk_reads_one() -> None:
    told = values(containers(render(on=runtime(storage={"region": "eu-1"})))["worker"])
    assert (told["AWS_REGION"], told["AWS_DEFAULT_REGION"]) == ("eu-1", "eu-1")


def test_what_the_runtime_says_of_encryption_and_owner_goes_with_the_requests_of_every_pod(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = {"serverSideEncryption": {"type": "aws:kms", "keyId": KEY}, "expectedBucketOwner": "123456789012"}
    for template in templates(render(on=runtime(storage=storage))).values():
        told = values(template["spec"]["containers"][0])
        with faulty_proxy(bucket.server.port) as proxy, monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            for name in told.keys() & MEMBERS.keys():
                patch.setenv(name, told[name])
            with pytest.raises(StorageRefused, match=r"the account 123456789012 of .* owns the bucket"):
                open_store(bucket.uri).put("a", b"x")  # whose owner is another one
            ((_, _, headers),) = proxy.seen
        sent = {name.lower().removeprefix("x-amz-"): value for name, value in headers.items()}
        assert sent["server-side-encryption"] == "aws:kms"
        assert sent["server-side-encryption-aws-kms-key-id"] == KEY
        assert sent["expected-bucket-owner"] == "123456789012"
    told = values(containers(render())["worker"])
    assert not told.keys() & MEMBERS.keys()


def test_workers_alone_keep_models_on_the_runtimes_volume() -> None:
    claim: dict[str, Any] = {"persistentVolumeClaim": {"claimName": "models"}}
    pods = templates(render(on=runtime(modelCache={"volume": claim, "size": "500Gi"})))
    (worker,), (head,) = (pods[role]["spec"]["containers"] for role in ("worker", "head"))
    told = values(worker)
    (name,) = (one["name"] for one in worker["volumeMounts"] if one["mountPath"] == told["FINETUNE_CACHE_DIR"])
    assert {"name": name, **claim} in pods["worker"]["spec"]["volumes"]
    assert told["FINETUNE_CACHE_BYTES"] == str(500 * 2**30)
    assert "FINETUNE_CACHE_DIR" not in values(head)
    assert name not in {one["name"] for one in pods["head"]["spec"]["volumes"]}
