"""What a bucket holds: objects, unfinished uploads, and S3's rules of who may replace what. One lock, no I/O."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from s3_faults.requests import Call, S3Error


def missing(key: str) -> S3Error:
    """The refusal of a key that is not there."""
    return S3Error(404, "NoSuchKey", f"The specified key does not exist: {key}")


def failed() -> S3Error:
    """The refusal of a request whose condition does not hold."""
    return S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")


@dataclass(frozen=True)
class Stored:
    """An object. `etag` is in quotes; `headers` are the content type and the user's own metadata."""

    data: bytes
    etag: str
    checksums: Mapping[str, str]
    checksum_type: str = "FULL_OBJECT"
    headers: Mapping[str, str] = field(default_factory=dict)
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))


def etag_of(data: bytes) -> str:
    """The ETag of an object that was sent in one piece."""
    return f'"{hashlib.md5(data).hexdigest()}"'


@dataclass
class Upload:
    """A multipart upload; the number of a part begins at 1."""

    key: str
    algorithm: str
    checksum_type: str
    headers: Mapping[str, str]
    parts: dict[int, Stored] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """What has to be so for a write to happen; `deletions` of its key there had been when its request began."""

    if_none_match: str
    if_match: str
    deletions: int

    def check(self, found: Stored | None, deletions: int) -> None:
        """Raise S3Error unless the write may replace what is `found`.

        Of concurrent writers the first to finish wins, later ones get 412; a deletion in the course of a conditional
        write is a 409 (S3 user guide, "How to prevent object overwrites with conditional writes").
        """
        if self.if_none_match not in ("", "*"):
            raise S3Error(501, "NotImplemented", "If-None-Match takes * alone.")
        if self.if_none_match and found is not None:
            raise failed()
        if self.if_match and found is not None and found.etag.strip('"') != self.if_match.strip('"'):
            raise failed()
        if (self.if_match or self.if_none_match) and deletions != self.deletions:
            raise S3Error(409, "ConditionalRequestConflict", "A conflicting operation has occurred. Please retry.")
        if self.if_match and found is None:
            raise S3Error(404, "NoSuchKey", "If-Match names an object that is not there.")


class Bucket:
    """Objects by key, and the changes that led to them. Every method is atomic."""

    def __init__(self) -> None:
        self._objects: dict[str, Stored] = {}
        self._uploads: dict[str, Upload] = {}
        self._started = 0
        self._completed: dict[str, tuple[str, str]] = {}
        self._changes: list[tuple[str, Stored | None]] = []
        self._deletions: Counter[str] = Counter()
        self._lock = threading.RLock()

    def condition(self, call: Call) -> Condition:
        """The condition of a write; to be asked for before its body is read."""
        headers = call.headers
        with self._lock:
            seen = self._deletions[call.key]
        return Condition(headers.get("if-none-match", ""), headers.get("if-match", ""), seen)

    def get(self, key: str) -> Stored:
        """An object; S3Error if there is none."""
        found = self._objects.get(key)
        if found is None:
            raise missing(key)
        return found

    def put(self, key: str, stored: Stored, condition: Condition) -> None:
        """Store an object in place of any other, if the condition holds."""
        with self._lock:
            condition.check(self._objects.get(key), self._deletions[key])
            self._change(key, stored)

    def delete(self, key: str, if_match: str = "") -> None:
        """Remove an object, if there is one and its ETag is the one that was asked for."""
        with self._lock:
            found = self._objects.get(key)
            if found is None:
                return
            if if_match and found.etag.strip('"') != if_match.strip('"'):
                raise failed()
            self._deletions[key] += 1
            self._change(key, None)

    def listed(self, behind: int = 0) -> dict[str, Stored]:
        """The objects in byte order of their keys, as they were before the last `behind` changes."""
        with self._lock:
            view: dict[str, Stored | None] = dict(self._objects)
            for key, before in reversed(self._changes[-behind:] if behind else []):
                view[key] = before
        return {key: found for key, found in sorted(view.items(), key=lambda item: item[0].encode()) if found}

    def damage(self, key: str, data: bytes) -> None:
        """Replace an object's bytes behind the server's back: its ETag and checksums stay as they were."""
        with self._lock:
            self._objects[key] = replace(self._objects[key], data=data)

    def start(self, upload: Upload) -> str:
        """Begin a multipart upload; returns its id."""
        with self._lock:
            self._started += 1
            name = f"{self._started:032x}"
            self._uploads[name] = upload
        return name

    def uploads(self) -> dict[str, Upload]:
        """Unfinished uploads by id."""
        with self._lock:
            return dict(self._uploads)

    @contextmanager
    def upload(self, name: str, key: str) -> Iterator[Upload]:
        """An unfinished upload, which nobody else sees meanwhile; S3Error if there is none."""
        with self._lock:
            found = self._uploads.get(name)
            if found is None or found.key != key:
                raise S3Error(404, "NoSuchUpload", "The specified multipart upload does not exist.")
            yield found

    def finished(self, name: str, key: str) -> str | None:
        """The ETag of the object that the upload became, None if it did not."""
        with self._lock:
            finished = self._completed.get(name)
        return finished[1] if finished and finished[0] == key else None

    def finish(self, name: str, stored: Stored, condition: Condition) -> None:
        """Make an upload an object, if the condition holds."""
        with self._lock, self.upload(name, self._uploads[name].key) as upload:
            self.put(upload.key, stored, condition)
            self._completed[name] = (upload.key, stored.etag)
            del self._uploads[name]

    def abort(self, name: str, key: str) -> None:
        """Give an upload and its parts up; S3Error if there is none."""
        with self.upload(name, key):
            del self._uploads[name]

    def _change(self, key: str, stored: Stored | None) -> None:
        self._changes.append((key, self._objects.get(key)))
        if stored is None:
            del self._objects[key]
        else:
            self._objects[key] = stored
