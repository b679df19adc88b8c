"""The test server's users see their own bucket only, and its STS gives sessions to those whom a role trusts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from issuer import Issuer
from s3_server import REGION, Keys, S3Server, serving

ROLE = "arn:aws:iam::000000000000:role/team-a"
AUDIENCE = "sts.test"
SUBJECT = "system:serviceaccount:team-a:trainer"


def as_user(server: S3Server, keys: Keys, token: str | None = None) -> Any:
    session = boto3.Session(keys.access, keys.secret, token, region_name=REGION)
    return session.client("s3", endpoint_url=server.endpoint)


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


@pytest.fixture
def keys(s3: S3Server) -> Keys:
    """Team A's keys; team B has a bucket too."""
    s3.add_user("team-b", "bucket-of-b")
    s3.client().put_object(Bucket="bucket-of-b", Key="model", Body=b"secret")
    return s3.add_user("team-a", "bucket-of-a")


def test_a_user_writes_and_reads_its_own_bucket(s3: S3Server, keys: Keys) -> None:
    client = as_user(s3, keys)
    client.put_object(Bucket="bucket-of-a", Key="x", Body=b"mine", IfNoneMatch="*")
    assert client.get_object(Bucket="bucket-of-a", Key="x")["Body"].read() == b"mine"
    client.delete_object(Bucket="bucket-of-a", Key="x")


def test_a_user_may_not_do_anything_with_another_users_bucket(s3: S3Server, keys: Keys) -> None:
    client = as_user(s3, keys)
    calls: list[Callable[[], object]] = [
        lambda: client.get_object(Bucket="bucket-of-b", Key="model"),
        lambda: client.put_object(Bucket="bucket-of-b", Key="model", Body=b"mine"),
        lambda: client.list_objects_v2(Bucket="bucket-of-b"),
        lambda: client.create_bucket(Bucket="another"),
    ]
    for call in calls:
        with pytest.raises(ClientError) as error:
            call()
        assert code_of(error) == "AccessDenied"


def assume(server: S3Server, token: str, role: str = ROLE) -> dict[str, Any]:
    session: Any = boto3.Session(region_name=REGION)
    sts = session.client("sts", endpoint_url=server.endpoint, config=Config(signature_version=UNSIGNED))
    answer = sts.assume_role_with_web_identity(RoleArn=role, RoleSessionName="test", WebIdentityToken=token)
    return dict(answer["Credentials"])


def test_a_token_of_a_subject_that_a_role_trusts_becomes_a_session(s3: S3Server, keys: Keys) -> None:
    issuer = Issuer()
    s3.trust(issuer.name, AUDIENCE, issuer.jwks)
    s3.add_role(ROLE, keys.access, ["system:serviceaccount:team-a:*"])
    found = assume(s3, issuer.token(SUBJECT, AUDIENCE))
    assert timedelta(minutes=59) < found["Expiration"] - datetime.now(UTC) <= timedelta(hours=1)
    session = Keys(found["AccessKeyId"], found["SecretAccessKey"])
    client = as_user(s3, session, found["SessionToken"])
    client.put_object(Bucket="bucket-of-a", Key="y", Body=b"mine")
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket="bucket-of-b", Key="model")
    assert code_of(error) == "AccessDenied"
    with pytest.raises(ClientError) as error:
        as_user(s3, session, found["SessionToken"][:-4] + "AAAA").list_objects_v2(Bucket="bucket-of-a")
    assert code_of(error) == "InvalidToken"


def test_a_session_that_has_expired_is_refused(s3: S3Server, keys: Keys) -> None:
    issuer = Issuer()
    s3.trust(issuer.name, AUDIENCE, issuer.jwks)
    s3.add_role(ROLE, keys.access, [SUBJECT], seconds=0)
    found = assume(s3, issuer.token(SUBJECT, AUDIENCE))
    with pytest.raises(ClientError) as error:
        client = as_user(s3, Keys(found["AccessKeyId"], found["SecretAccessKey"]), found["SessionToken"])
        client.list_objects_v2(Bucket="bucket-of-a")
    assert code_of(error) == "ExpiredToken"


@pytest.mark.parametrize(
    ("subject", "audience", "seconds", "code"),
    [
        (SUBJECT, "another", 3600, "InvalidIdentityToken"),
        (SUBJECT, AUDIENCE, -3600, "ExpiredTokenException"),
        ("system:serviceaccount:team-b:trainer", AUDIENCE, 3600, "AccessDenied"),
    ],
)
def test_a_token_that_does_not_fit_is_refused(
    s3: S3Server, keys: Keys, subject: str, audience: str, seconds: int, code: str
) -> None:
    issuer = Issuer()
    s3.trust(issuer.name, AUDIENCE, issuer.jwks)
    s3.add_role(ROLE, keys.access, [SUBJECT])
    with pytest.raises(ClientError) as error:
        assume(s3, issuer.token(subject, audience, seconds))
    assert code_of(error) == code


def test_a_token_that_another_key_signed_is_refused(s3: S3Server, keys: Keys) -> None:
    s3.trust(Issuer().name, AUDIENCE, Issuer().jwks)
    s3.add_role(ROLE, keys.access, [SUBJECT])
    with pytest.raises(ClientError) as error:
        assume(s3, Issuer().token(SUBJECT, AUDIENCE))
    assert code_of(error) == "InvalidIdentityToken"


def test_users_outlive_the_process_and_may_be_added_from_another_one(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        other = S3Server(server.data, server.port, server.access_key, server.secret_key)
        keys = other.add_user("late", "bucket-of-late")
        server.kill()
        server.start()
        as_user(server, keys).put_object(Bucket="bucket-of-late", Key="x", Body=b"")


def test_a_bucket_can_be_made_to_ignore_conditions(s3: S3Server) -> None:
    client = as_user(s3, s3.add_user("careless", "careless"))
    s3.ignore_conditions("careless")
    for body in (b"first", b"second"):
        client.put_object(Bucket="careless", Key="z", Body=body, IfNoneMatch="*")
    assert client.get_object(Bucket="careless", Key="z")["Body"].read() == b"second"
