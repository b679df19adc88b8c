"""versitygw as we build it stores no short objects and loses none; how it answers is in test_s3_alike.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import boto3
import pytest

import s3_server
from process_end import ends
from s3_bucket import Bucket
from s3_server import REGION, S3Server, create_bucket, serving


def put_part_of_a_body(bucket: Bucket, operation: str, declared: int, sent: int, **params: Any) -> bytes:
    """PUT with Content-Length `declared` and an unsigned body of `sent` bytes, end the body and return the answer."""
    url = bucket.client.generate_presigned_url(operation, {"Bucket": bucket.name, **params})
    parts = urllib.parse.urlsplit(url)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {declared}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", bucket.server.port), timeout=20) as connection:
        connection.sendall(head.encode() + b"x" * sent)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(65536)


@pytest.mark.parametrize("key", ["new", "kept"])
def test_a_body_cut_short_stores_nothing(bucket: Bucket, key: str) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="kept", Body=b"older")
    answer = put_part_of_a_body(bucket, "put_object", declared=1_000_000, sent=500_000, Key=key)
    assert b"IncompleteBody" in answer
    listed = bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]
    assert [(entry["Key"], entry["Size"]) for entry in listed] == [("kept", 5)]


def test_a_part_cut_short_is_not_listed(bucket: Bucket) -> None:
    upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="big")["UploadId"]
    place = {"Key": "big", "UploadId": upload, "PartNumber": 1}
    answer = put_part_of_a_body(bucket, "upload_part", declared=1_000_000, sent=500_000, **place)
    assert b"IncompleteBody" in answer
    assert "Parts" not in bucket.client.list_parts(Bucket=bucket.name, Key="big", UploadId=upload)


def test_a_whole_unsigned_body_is_stored(bucket: Bucket) -> None:
    answer = put_part_of_a_body(bucket, "put_object", declared=500_000, sent=500_000, Key="whole")
    assert answer.startswith(b"HTTP/1.1 200")
    assert bucket.client.head_object(Bucket=bucket.name, Key="whole")["ContentLength"] == 500_000


def client_with(server: S3Server, secret: str) -> Any:
    return boto3.Session(server.access_key, secret, region_name=REGION).client("s3", endpoint_url=server.endpoint)


def test_acknowledged_objects_survive_a_killed_server(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        create_bucket(server, "kept")
        client = client_with(server, server.secret_key)
        client.put_object(Bucket="kept", Key="a", Body=b"data")
        server.kill()
        server.start()
        assert client.get_object(Bucket="kept", Key="a")["Body"].read() == b"data"


LIST_BUCKETS = """
import boto3, sys
print([bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]])
sys.exit(15)
"""


def test_a_command_runs_with_a_server_of_its_own_and_keeps_its_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, s3_server.__file__, "--data", str(tmp_path / "data"), "--bucket", "demo", "--"]
    run = subprocess.run([*command, sys.executable, "-c", LIST_BUCKETS], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.returncode) == ("['demo']", 15), run.stderr


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = "import s3_server, sys, os, signal; from pathlib import Path\n"
    code += "server = s3_server.S3Server(Path(sys.argv[1])); server.start(); print(server._process.pid, flush=True)\n"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    environment = os.environ | {"PYTHONPATH": str(Path(s3_server.__file__).parent)}
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL
    assert ends(int(run.stdout)), "the server lives on"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with serving(tmp_path / "one") as server, pytest.raises(RuntimeError, match="did not start"):
        S3Server(tmp_path / "two", port=server.port).start()
