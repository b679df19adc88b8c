"""What an S3 server is asked to find out how it behaves; every probe tells what came of it in words that compare."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from finetune_trainer.store.checksums import crc64_header, crc64nvme
from s3_server import REGION, Keys

RACERS = 16
PART = 5 * 2**20


@dataclass(frozen=True)
class Probed:
    """An empty bucket on a server, and the keys of somebody who may do everything with it."""

    endpoint: str
    keys: Keys
    bucket: str

    @cached_property
    def client(self) -> Any:
        """A client that tries once, and adds no checksum by itself."""
        config = Config(retries={"total_max_attempts": 1}, request_checksum_calculation="when_required")
        return self.keys.client(self.endpoint, config=config)

    def call(self, operation: str, *picked: str, **request: Any) -> Any:
        """The error code, else what the answer has under `picked`: one name alone, more as a list, none as "ok"."""
        try:
            answer = getattr(self.client, operation)(Bucket=self.bucket, **request)
        except ClientError as error:
            return error.response["Error"]["Code"]
        found = [answer.get(name) for name in picked]
        return "ok" if not picked else found[0] if len(picked) == 1 else found

    def held(self) -> dict[str, bytes]:
        """All objects."""
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {one["Key"]: self.read(one["Key"]) for one in listed}

    def read(self, key: str, **request: Any) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key, **request)["Body"].read()
        return body

    def raw(
        self,
        key: str,
        body: bytes,
        headers: dict[str, str],
        *,
        sent: int | None = None,
        tamper: str = "",
        meanwhile: Callable[[], object] = lambda: None,
    ) -> str:
        """The status of a signed PUT with exactly these headers, of whose body only `sent` bytes go out; "" if there
        is no answer. `tamper` is added to the last header's value after signing; `meanwhile` runs before the body's
        last byte."""
        url = f"{self.endpoint}/{self.bucket}/{key}"
        request = AWSRequest(method="PUT", url=url, data=body, headers={"Content-Length": str(len(body)), **headers})
        _Exact(Credentials(self.keys.access, self.keys.secret), "s3", REGION).add_auth(request)
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        if tamper:
            last = next(iter(reversed(headers)))
            lines = [f"{line}{tamper}" if line.startswith(f"{last}:") else line for line in lines]
        place = urlsplit(self.endpoint)
        assert place.hostname is not None
        with socket.create_connection((place.hostname, place.port or 80), timeout=20) as connection:
            head = "\r\n".join([f"PUT {urlsplit(url).path} HTTP/1.1", f"Host: {place.netloc}", *lines])
            going = body[:sent]
            connection.sendall(f"{head}\r\n\r\n".encode() + going[:-1])
            meanwhile()
            connection.sendall(going[-1:])
            if sent is not None:
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                return connection.recv(65536).partition(b" ")[2][:3].decode()
        return ""


class _Exact(S3SigV4Auth):
    """Signs the hash that is given, right or not."""

    def payload(self, request: AWSRequest) -> str:
        return str(request.headers["X-Claimed-Sha256"])


Probe = Callable[[Probed], Any]


def race(probed: Probed, request: dict[str, Any]) -> int:
    """How many of concurrent writers of one key win."""

    def write(number: int) -> bool:
        return bool(probed.call("put_object", Key="raced", Body=b"%d" % number, **request) == "ok")

    with ThreadPoolExecutor(RACERS) as pool:
        return sum(pool.map(write, range(RACERS)))


def upload(probed: Probed, parts: list[bytes], key: str = "big", **request: Any) -> tuple[str, list[dict[str, Any]]]:
    """Begin a multipart upload and send its parts; its id, and what completes it."""
    client = probed.client
    id_ = client.create_multipart_upload(Bucket=probed.bucket, Key=key, **request)["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        place = {"Bucket": probed.bucket, "Key": key, "UploadId": id_, "PartNumber": number}
        answer = client.upload_part(**place, Body=part, **_algorithm(request))
        told = {name: answer[name] for name in ("ETag", "ChecksumCRC32C", "ChecksumCRC64NVME") if name in answer}
        done.append({"PartNumber": number, **told})
    return id_, done


def _algorithm(request: dict[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in request if name == "ChecksumAlgorithm"}


def complete(probed: Probed, name: str, parts: list[dict[str, Any]], *picked: str, **request: Any) -> Any:
    """What comes of completing an upload."""
    place = {"Key": "big", "UploadId": name, "MultipartUpload": {"Parts": parts}}
    return probed.call("complete_multipart_upload", *picked, **place, **request)


def chunked(data: bytes, said: bytes) -> tuple[bytes, dict[str, str]]:
    """A body in aws-chunked framing with the CRC64NVME of `said` behind it, and its headers."""
    trailer = f"x-amz-checksum-crc64nvme:{crc64_header(crc64nvme(said))}"
    framed = f"{len(data):x}\r\n".encode() + data + f"\r\n0\r\n{trailer}\r\n\r\n".encode()
    headers = {
        "X-Claimed-Sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": str(len(data)),
        "x-amz-trailer": "x-amz-checksum-crc64nvme",
        "content-encoding": "aws-chunked",
    }
    return framed, headers


def digest(name: str, data: bytes) -> str:
    """A hash as S3 writes it."""
    return base64.b64encode(hashlib.new(name, data).digest()).decode()
