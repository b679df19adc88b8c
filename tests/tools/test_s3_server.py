"""The test server is a real S3: conditional writes, checksums, authentication, and no short objects."""

from __future__ import annotations

import socket
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from s3_server import REGION, S3Server, create_bucket, serving

if TYPE_CHECKING:
    from conftest import Bucket


def send_half_a_body(server: S3Server, path: str, declared: int) -> bytes:
    """PUT `path` unsigned-payload with half of the declared bytes, close the sending side and return the answer."""
    url = f"{server.endpoint}{path}"
    headers = {"Content-Length": str(declared), "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
    request = AWSRequest("PUT", url, headers=headers)
    request.context["payload_signing_enabled"] = False
    S3SigV4Auth(Credentials(server.access_key, server.secret_key), "s3", REGION).add_auth(request)
    head = [f"PUT {path} HTTP/1.1", f"Host: {urllib.parse.urlsplit(url).netloc}"]
    head += [f"{name}: {value}" for name, value in request.headers.items()]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + b"x" * (declared // 2))
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(65536)


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_a_key_is_created_once_with_if_none_match(bucket: Bucket) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="log/1", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as error:
        bucket.client.put_object(Bucket=bucket.name, Key="log/1", Body=b"second", IfNoneMatch="*")
    assert code_of(error) == "PreconditionFailed"
    assert bucket.client.get_object(Bucket=bucket.name, Key="log/1")["Body"].read() == b"first"


def test_a_wrong_checksum_stores_nothing(bucket: Bucket) -> None:
    with pytest.raises(ClientError) as error:
        bucket.client.put_object(Bucket=bucket.name, Key="a", Body=b"data", ChecksumCRC64NVME="AAAAAAAAAAA=")
    assert code_of(error) == "BadDigest"
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket.name)


def test_a_body_cut_short_stores_nothing(bucket: Bucket) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="kept", Body=b"older")
    send_half_a_body(bucket.server, f"/{bucket.name}/new", declared=1_000_000)
    send_half_a_body(bucket.server, f"/{bucket.name}/kept", declared=1_000_000)
    listed = bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]
    assert [(entry["Key"], entry["Size"]) for entry in listed] == [("kept", 5)]


def test_a_part_cut_short_is_not_listed(bucket: Bucket) -> None:
    upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="big")["UploadId"]
    send_half_a_body(bucket.server, f"/{bucket.name}/big?partNumber=1&uploadId={upload}", declared=1_000_000)
    assert "Parts" not in bucket.client.list_parts(Bucket=bucket.name, Key="big", UploadId=upload)


def test_a_whole_body_of_the_same_request_is_stored(bucket: Bucket) -> None:
    answer = send_half_a_body(bucket.server, f"/{bucket.name}/empty", declared=0)
    assert answer.startswith(b"HTTP/1.1 200")


def client_with(server: S3Server, secret: str) -> Any:
    return boto3.Session(server.access_key, secret, region_name=REGION).client("s3", endpoint_url=server.endpoint)


def test_a_wrong_secret_is_refused(bucket: Bucket) -> None:
    with pytest.raises(ClientError) as error:
        client_with(bucket.server, "wrong").list_objects_v2(Bucket=bucket.name)
    assert code_of(error) == "SignatureDoesNotMatch"


def test_acknowledged_objects_survive_a_killed_server(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        create_bucket(server, "kept")
        client = client_with(server, server.secret_key)
        client.put_object(Bucket="kept", Key="a", Body=b"data")
        server.kill()
        server.start()
        assert client.get_object(Bucket="kept", Key="a")["Body"].read() == b"data"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with serving(tmp_path / "one") as server, pytest.raises(RuntimeError, match="did not start"):
        S3Server(tmp_path / "two", port=server.port).start()
