"""Objects in an S3 bucket, by boto3: create-only writes with CRC64NVME, exact reads, and errors that say what to do."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError

from finetune_trainer.errors import StorageError
from finetune_trainer.store.checksums import crc64_header, crc64_value, crc64nvme, read_fully
from finetune_trainer.store.objects import (
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    StorageRefused,
    byte_view,
    check_key,
)
from finetune_trainer.store.s3_body import body_of
from finetune_trainer.store.s3_client import attempts_of, make_client, never_trusted, redacted
from finetune_trainer.store.s3_errors import Place, code_of, explain, not_s3, retries_of
from finetune_trainer.store.s3_reader import Fetch, Fetched, S3Reader, Source, TimedBody, pause

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef
    from typing_extensions import Buffer

MAX_PUT_BYTES = 5 * 2**30  # S3's limit for one PUT
DELETE_BATCH = 1000  # S3's limit for one DeleteObjects
READ_BUFFER_BYTES = 2**20
# The last three are what botocore lets through of a token that cannot be read and of credentials that come too late.
CALL_ERRORS = (BotoCoreError, HTTPClientError, ClientError, FileNotFoundError, PermissionError, RuntimeError)
CONFLICT = ("ConditionalRequestConflict", "OperationAborted")
TAKEN = ("PreconditionFailed", "412")
DAMAGED = ("BadDigest", "XAmzContentChecksumMismatch")


class S3Store:
    """An ObjectStore over the keys `<prefix>/...` of a bucket.

    The client is made at the first call in each process: a pickled or forked store makes its own connections.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._base = f"{prefix}/" if prefix else ""
        self._client: S3Client | None = None
        self._process = os.getpid()
        self._making = threading.Lock()

    @property
    def uri(self) -> str:
        """The root's address, without a slash at its end."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, str]]:
        return S3Store, (self.bucket, self.prefix)

    def list(self, prefix: str = "", *, after: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        """See ObjectStore. The keys are held in memory: S3 Express lists in no order, so they are sorted here."""
        request: dict[str, Any] = {"Bucket": self.bucket, "Prefix": self._base + prefix}
        if after:
            request["StartAfter"] = self._base + after
        if not recursive:
            request["Delimiter"] = "/"
        found = []
        with self._explained(f"list {self.uri}/{prefix}"):
            for page in self.client.get_paginator("list_objects_v2").paginate(**request):
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self._base)
                    # Consoles mark folders by empty objects whose keys end in a slash.
                    if key and not key.endswith("/") and key > after:
                        found.append(ObjectInfo(key, item["Size"], item["ETag"].strip('"')))
        yield from sorted(found, key=lambda info: info.key)

    def head(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        with self._explained(f"look up {self.uri}/{key}", key):
            answer = self.client.head_object(Bucket=self.bucket, Key=self._base + key)
        return self._info(key, answer["ContentLength"], cast(dict[str, Any], answer))

    def checksum(self, key: str) -> int | None:
        """See ObjectStore."""
        with self._explained(f"look up {self.uri}/{key}", key):
            answer = self.client.head_object(Bucket=self.bucket, Key=self._base + key, ChecksumMode="ENABLED")
        known = cast(dict[str, Any], answer).get("ChecksumCRC64NVME")
        return None if known is None else crc64_value(known)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """See ObjectStore."""
        if length == 0:
            self.head(key)
            return b""
        with self._reader(key, start, length) as reader:
            return reader.readall()

    def read_into(self, key: str, buffer: Buffer, start: int = 0) -> tuple[int, int]:
        """See ObjectStore."""
        view = byte_view(buffer)
        if not view.nbytes:
            self.head(key)
            return 0, 0
        with self._reader(key, start, view.nbytes) as reader:
            return read_fully(reader, view)

    def open(self, key: str) -> io.BufferedReader:
        """See ObjectStore. An object that is replaced while it is read is an error."""
        return io.BufferedReader(self._reader(key), READ_BUFFER_BYTES)

    def create(self, key: str, data: Buffer, *, crc64: int | None = None) -> ObjectInfo:
        """See ObjectStore.

        An answer that was lost is asked for again: an object with exactly these bytes then counts as this call's own.
        Writers that race for one key must therefore write different bytes.
        """
        check_key(key, self.uri)
        view = byte_view(data)
        checksum = crc64nvme(view) if crc64 is None else crc64
        action = f"create {self.uri}/{key} ({view.nbytes} bytes)"
        for attempt in range(self._attempts):
            with self._explained(action):
                try:
                    return self._put(key, view, checksum, IfNoneMatch="*")
                except ClientError as error:
                    if code_of(error) in TAKEN:
                        again = attempt or retries_of(error)
                        return self._own(key, view, checksum if again else None)
                    if code_of(error) not in CONFLICT:
                        raise
                except SSLError as error:
                    if never_trusted(error):
                        raise
                    # Over TLS, an answer that comes before the end of the body is lost with the connection.
                    with suppress(ObjectNotFound):
                        self.head(key)
                        return self._own(key, view, checksum)
                    if attempt + 1 == self._attempts:
                        raise
            pause(attempt)
        raise StorageError(f"cannot {action}: others write it just now ({self._attempts} attempts made); run it again")

    def put(self, key: str, data: Buffer) -> ObjectInfo:
        """See ObjectStore."""
        check_key(key, self.uri)
        view = byte_view(data)
        with self._explained(f"write {self.uri}/{key} ({view.nbytes} bytes)"):
            return self._put(key, view, crc64nvme(view))

    def delete(self, keys: Iterable[str]) -> None:
        """See ObjectStore."""
        remaining = iter(keys)
        while batch := list(islice(remaining, DELETE_BATCH)):
            self._delete(batch)

    def discard_unfinished(self, prefix: str) -> None:
        """See ObjectStore. An object is one request, of which a killed writer leaves nothing."""

    @property
    def client(self) -> S3Client:
        """This process's client, which its threads share."""
        if self._process != os.getpid():  # a fork: neither connections nor a lock of the parent's threads can be used
            self._process, self._making, self._client = os.getpid(), threading.Lock(), None
        with self._making:
            if self._client is None:
                self._client = self._make_client()
        return self._client

    def _make_client(self) -> S3Client:
        try:
            return make_client()
        except (BotoCoreError, ValueError) as error:
            raise explain(error, f"use {self.uri}", Place(self.bucket, "the endpoint")) from error

    def _put(self, key: str, view: memoryview, checksum: int, **condition: Any) -> ObjectInfo:
        if view.nbytes > MAX_PUT_BYTES:
            raise StorageRefused(f"{self.uri}/{key} has {view.nbytes} bytes: write objects of at most {MAX_PUT_BYTES}")
        request = {"Bucket": self.bucket, "Key": self._base + key, "ContentLength": view.nbytes, **condition}
        request["ChecksumCRC64NVME"] = crc64_header(checksum)
        try:
            answer = self.client.put_object(Body=body_of(view), **request)
        except ClientError as error:
            if code_of(error) not in DAMAGED:
                raise
            answer = self.client.put_object(
                Body=body_of(view), **request
            )  # what was damaged on its way may get through
        return self._info(key, view.nbytes, cast(dict[str, Any], answer))

    def _info(self, key: str, size: int, answer: dict[str, Any]) -> ObjectInfo:
        if "ETag" not in answer:
            raise not_s3(f"cannot use {self.uri}/{key}", "answers without an ETag", self._place())
        return ObjectInfo(key, size, answer["ETag"].strip('"'))

    def _own(self, key: str, view: memoryview, checksum: int | None) -> ObjectInfo:
        """The object that a create found; ObjectExists unless it may be its own, of these bytes and this `checksum`."""
        if checksum is not None and self._holds(key, view, checksum):
            return self.head(key)
        raise ObjectExists(f"{self.uri}/{key} exists already and is never overwritten")

    def _holds(self, key: str, view: memoryview, checksum: int) -> bool:
        """Whether the object under `key` is exactly `view`."""
        try:
            with self._explained(f"look up {self.uri}/{key}", key):
                stored = self.client.head_object(Bucket=self.bucket, Key=self._base + key, ChecksumMode="ENABLED")
            if stored["ContentLength"] != view.nbytes:
                return False
            known = cast(dict[str, Any], stored).get("ChecksumCRC64NVME")
            return self.get(key) == view if known is None else known == crc64_header(checksum)
        except ObjectNotFound:
            return False

    def _delete(self, keys: Sequence[str]) -> None:
        action = f"delete {len(keys)} objects of {self.uri}, {keys[0]!r} first,"
        for attempt in range(self._attempts):
            targets: Sequence[ObjectIdentifierTypeDef] = [{"Key": self._base + key} for key in keys]
            with self._explained(action):
                answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": targets, "Quiet": True})
            if not (errors := answer.get("Errors", [])):
                return
            keys = [error.get("Key", "").removeprefix(self._base) for error in errors]
            refused = ClientError({"Error": cast(Any, errors[0])}, "DeleteObjects")
            explained = explain(refused, f"delete {self.uri}/{keys[0]}", self._place())
            if not explained.retryable or attempt + 1 == self._attempts:
                raise explained
            pause(attempt)

    def _reader(self, key: str, start: int = 0, length: int | None = None) -> S3Reader:
        stop = None if length is None else start + length
        return S3Reader(Source(f"{self.uri}/{key}", self._fetcher(key, stop), self._attempts), start, length)

    def _fetcher(self, key: str, stop: int | None = None) -> Fetch:
        """How S3Reader opens `key` at an offset, up to but without byte `stop`."""

        def fetch(offset: int, etag: str) -> Fetched:
            request: dict[str, Any] = {"Bucket": self.bucket, "Key": self._base + key}
            if offset or stop is not None:
                request["Range"] = f"bytes={offset}-" + ("" if stop is None else str(stop - 1))
            request |= {"IfMatch": etag} if etag else {}
            for attempt in range(self._attempts):
                with self._explained(f"read {self.uri}/{key}"):
                    try:
                        answer = self.client.get_object(**request)
                    except ClientError as error:
                        if code_of(error) == "InvalidRange":  # the object ends before `offset`
                            return Fetched(io.BytesIO(), 0, "")
                        if code_of(error) in TAKEN:
                            text = f"{self.uri}/{key} was replaced while it was read; run it again"
                            raise StorageError(text) from error
                        raise
                if "ETag" in answer:
                    break
                answer["Body"].close()  # an error under the status 200, which botocore does not look for in a body
                pause(attempt)
            else:
                raise not_s3(f"cannot read {self.uri}/{key}", "answers without an ETag", self._place())
            whole = answer.get("ContentRange", "").rpartition("/")[2]
            return Fetched(TimedBody(answer["Body"]), int(whole) if whole else answer["ContentLength"], answer["ETag"])

        return fetch

    @property
    def _attempts(self) -> int:
        """For what botocore does not retry: broken bodies, creates that meet others, keys that a delete left over."""
        return attempts_of(self.client)

    def _place(self) -> Place:
        return Place(self.bucket, redacted(self.client.meta.endpoint_url))

    @contextmanager
    def _explained(self, action: str, key: str | None = None) -> Iterator[None]:
        """Turn botocore's errors into StorageErrors; `key` marks a HEAD, whose answers carry no reason."""
        try:
            yield
        except CALL_ERRORS as error:
            if key is not None and isinstance(error, ClientError):
                self._ask_again(action, key)
            raise explain(error, action, self._place()) from error

    def _ask_again(self, action: str, key: str) -> None:
        """Raise what a request whose answer has a body says of the bucket and the credentials, if it says anything."""
        with self._explained(action):
            self.client.list_objects_v2(Bucket=self.bucket, Prefix=self._base + key, MaxKeys=1)
