"""An S3 server of our own that breaks as a script says: in memory, in this process, and strict where S3 is.

It verifies Signature Version 4 and every checksum, and keeps S3's rules of ranges, conditions, listings and multipart
uploads (tests/tools/test_s3_alike.py holds it and versitygw to the same answers). It has no TLS, versions, policies or
presigned addresses: versitygw (tools/s3_server.py) is the server for those, for speed and for other processes' data.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from faults import FOREVER, Faults
from faulty_http import Action, Answer, FaultyHandler, serving_http
from s3_faults.bucket import Bucket, Condition
from s3_faults.lists import list_buckets, list_objects, list_parts, list_uploads
from s3_faults.objects import copied, copy_object, delete_object, delete_objects, get_object, put_object
from s3_faults.requests import Call, Operation, S3Error
from s3_faults.signatures import check_signature
from s3_faults.uploads import abort_upload, complete_upload, create_upload, upload_part
from s3_server import REGION, Keys


@dataclass
class FaultyS3:
    """Serves on 127.0.0.1:`port`; `seen` are the requests so far. Below `domain`, buckets are subdomains, too."""

    keys: Keys = field(default_factory=lambda: Keys(f"test-{secrets.token_hex(4)}", secrets.token_urlsafe(24)))
    domain: str = ""
    port: int = 0
    buckets: dict[str, Bucket] = field(default_factory=dict)
    faults: Faults[Call, Action] = field(default_factory=Faults)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """The AWS variables that point any SDK, here or in a child process, at this server."""
        return self.keys.at(self.endpoint)

    def client(self, **options: Any) -> Any:
        """An S3 client, of a class that boto3 makes at run time."""
        return self.keys.client(self.endpoint, **options)

    @property
    def seen(self) -> list[Call]:
        return self.faults.seen

    def inject(self, action: Action, *operations: Operation, key: str = "*", times: int = 1, skip: int = 0) -> None:
        """Break the next `times` requests of these operations (none named: of all) whose key, in a listing the prefix,
        fits the glob `key`, once `skip` of them have passed; faults that fit the same request queue up."""

        def fits(call: Call) -> bool:
            name = call.key or call.query.get("prefix", "")
            return (not operations or call.operation in operations) and fnmatchcase(name, key)

        self.faults.add(fits, action, times, skip)

    def count(self, *operations: Operation, key: str = "*") -> int:
        """How many requests of these operations have arrived."""
        return sum(call.operation in operations and fnmatchcase(call.key, key) for call in self.seen)

    def bucket(self, name: str) -> Bucket:
        """A bucket; S3Error if there is none."""
        if name not in self.buckets:
            raise S3Error(404, "NoSuchBucket", f"The specified bucket does not exist: {name}")
        return self.buckets[name]

    def keys_like(self, bucket: str, key: str) -> list[str]:
        """The keys in a bucket that fit the glob `key`."""
        return [found for found in self.bucket(bucket).listed() if fnmatchcase(found, key)]

    def make_bucket(self, name: str = "") -> str:
        """Make a bucket if it is missing, without a name a new one, and return its name."""
        name = name or f"test-{secrets.token_hex(6)}"
        self.buckets.setdefault(name, Bucket())
        return name

    def crash(self, *operations: Operation, key: str = "*", skip: int = 0, effect: bool = True) -> None:
        """Die in one request, behind its effect or before it; until `restart` every connection is reset."""

        def die(handler: FaultyHandler) -> None:
            body = handler.read_body()
            if effect:
                handler.forward(body)
            self.faults.clear()
            self.inject(FaultyHandler.reset, times=FOREVER)
            handler.reset()

        self.inject(die, *operations, key=key, skip=skip)

    def restart(self) -> None:
        """Serve again, with everything that was acknowledged, and no fault."""
        self.faults.clear()


class S3Handler(FaultyHandler):
    """One connection of a client."""

    s3: FaultyS3
    call: Call
    condition: Condition | None = None

    def fault(self) -> Action | None:
        """What the script has for the request; its conditions hold from here on, before its body is read."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.call = Call.of(self.command, self.path, headers, self.s3.domain)
        bucket = self.s3.buckets.get(self.call.bucket)
        self.condition = bucket.condition(self.call) if bucket else None
        return self.s3.faults.take(self.call)

    def forward(self, body: bytes) -> Answer:
        """Do the request as S3 does it."""
        return self.done(body)

    def done(self, body: bytes, behind: int = 0) -> Answer:
        """Do the request; a listing as it was before the last `behind` changes."""
        keys = {self.s3.keys.access: self.s3.keys.secret}
        try:
            check_signature(self.command, self.path, self.call.headers, keys, datetime.now(UTC))
            return self._do(body, behind)
        except S3Error as error:
            answer = error.answer()
            return Answer(answer.status, answer.headers, b"") if self.command == "HEAD" else answer

    def _do(self, body: bytes, behind: int) -> Answer:
        call, server = self.call, self.s3
        if call.operation is Operation.UNKNOWN:
            raise S3Error(501, "NotImplemented", f"{self.command} {self.path} is not done by this server.")
        if call.operation is Operation.LIST_BUCKETS:
            return list_buckets(server.buckets)
        if call.operation is Operation.CREATE_BUCKET:
            return Answer(200, [("Location", f"/{server.make_bucket(call.bucket)}")], b"")
        bucket = server.bucket(call.bucket)
        condition = self.condition or bucket.condition(call)
        does: dict[Operation, Callable[[], Answer]] = {
            Operation.HEAD_BUCKET: lambda: Answer(200, [("x-amz-bucket-region", REGION)], b""),
            Operation.LIST: partial(list_objects, bucket, call, behind),
            Operation.PUT: partial(put_object, bucket, call, body, condition),
            Operation.COPY: lambda: copy_object(bucket, server.bucket(copied(call)[0]), call, condition),
            Operation.GET: partial(get_object, bucket, call),
            Operation.HEAD: partial(get_object, bucket, call),
            Operation.DELETE: partial(delete_object, bucket, call),
            Operation.DELETE_MANY: partial(delete_objects, bucket, call, body),
            Operation.CREATE_UPLOAD: partial(create_upload, bucket, call),
            Operation.UPLOAD_PART: partial(upload_part, bucket, call, body),
            Operation.COMPLETE_UPLOAD: partial(complete_upload, bucket, call, body, condition),
            Operation.ABORT_UPLOAD: partial(abort_upload, bucket, call),
            Operation.LIST_UPLOADS: partial(list_uploads, bucket, call),
            Operation.LIST_PARTS: partial(list_parts, bucket, call),
        }
        return does[call.operation]()


def lag(changes: int) -> Action:
    """Let a listing tell what was there before the last `changes` writes and deletions."""

    def act(handler: FaultyHandler) -> None:
        assert isinstance(handler, S3Handler)
        handler.answer(handler.done(handler.read_body(), changes))

    return act


def rot(change: Callable[[bytes], bytes]) -> Action:
    """Let a write succeed, and what it stored change on the disk behind it."""

    def act(handler: FaultyHandler) -> None:
        assert isinstance(handler, S3Handler)
        answer = handler.forward(handler.read_body())
        bucket = handler.s3.bucket(handler.call.bucket)
        bucket.damage(handler.call.key, change(bucket.get(handler.call.key).data))
        handler.answer(answer)

    return act


@contextmanager
def serving_faults(domain: str = "") -> Iterator[FaultyS3]:
    """A server without buckets for the length of a with block."""
    server = FaultyS3(domain=domain)
    with serving_http(type("BoundS3Handler", (S3Handler,), {"s3": server})) as server.port:
        yield server
