"""The ways in which S3 fails, each as a script for our own server: what it does to the requests for one object."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from faults import FOREVER
from faulty_http import (
    Action,
    change_answer,
    change_upload,
    cut_answer,
    delay,
    drip_answer,
    flip,
    hang,
    lose_answer,
    refuse,
    reset_upload,
)
from s3_faults.requests import Operation
from s3_faults.server import FaultyS3, lag, rot

PAUSE = 0.005  # seconds before each piece of a slow answer


@dataclass(frozen=True)
class Target:
    """Whose requests are broken: those that write or read the objects of `bucket` whose keys fit the glob `key`, behind
    the first `skip`."""

    server: FaultyS3
    bucket: str
    key: str
    writes: bool
    skip: int = 0

    @property
    def operations(self) -> tuple[Operation, ...]:
        return (Operation.PUT, Operation.UPLOAD_PART) if self.writes else (Operation.GET,)

    def inject(self, action: Action, times: int = 1) -> None:
        """Break the next requests."""
        self.server.inject(action, *self.operations, key=self.key, times=times, skip=self.skip)

    def damage(self, change: Callable[[bytes], bytes]) -> None:
        """Change what is stored, or what will be, behind the server's back."""
        if self.writes:
            whole = (Operation.PUT, Operation.COMPLETE_UPLOAD)
            self.server.inject(rot(change), *whole, key=self.key, times=FOREVER)
            return
        bucket = self.server.bucket(self.bucket)
        for key in self.server.keys_like(self.bucket, self.key):
            bucket.damage(key, change(bucket.get(key).data))


Mode = Callable[[Target], None]


def flipped(data: bytes) -> bytes:
    """One bit is another, of a text in a word, so that what reads it finds no fault with its form."""
    word = re.compile(rb" [b-y]{4,} ").search(data, len(data) // 2)
    return flip(data, word.start() + 1 if word else len(data) // 2)


def _requests(action: Action, times: int = 1) -> Mode:
    return lambda target: target.inject(action, times)


def _either(writing: Action, reading: Action, times: int = 1) -> Mode:
    return lambda target: target.inject(writing if target.writes else reading, times)


def _operation(action: Action, operation: Operation) -> Mode:
    return lambda target: target.server.inject(action, operation, times=FOREVER)


# What no client can undo, and so has to be told of; of the others something right can come.
LASTING = {
    "503 for good",
    "403 expired token",
    "reset for good",
    "truncated at rest",
    "bit flip at rest",
    "bit flips for good",
    "200 with errors for good",
    "drip for good",
    "hang for good",
    "crash before",
    "crash behind",
}
AT = 40
"""Bytes of a body that pass before it breaks: less than any object here has."""
MODES: dict[str, Mode] = {
    "503 burst": _requests(refuse(503, "SlowDown"), 2),
    "503 for good": _requests(refuse(503, "SlowDown"), FOREVER),
    "403 expired token": _requests(refuse(403, "ExpiredToken"), FOREVER),
    "reset in the body": _either(reset_upload(AT), cut_answer(AT, reset=True)),
    "reset for good": _either(reset_upload(0), cut_answer(0, reset=True), FOREVER),
    "truncated body": _either(reset_upload(AT), cut_answer(AT)),
    "truncated at rest": lambda target: target.damage(lambda data: data[:-7]),
    "bit flip at rest": lambda target: target.damage(flipped),
    "bit flip in flight": _either(change_upload(flipped), change_answer(flipped)),
    "bit flips for good": _either(change_upload(flipped), change_answer(flipped), FOREVER),
    "200 with an error": _requests(refuse(200, "InternalError")),
    "200 with errors for good": _requests(refuse(200, "InternalError"), FOREVER),
    "slow": _either(delay(20 * PAUSE), drip_answer(20, PAUSE), FOREVER),
    "drip for good": _either(hang(), drip_answer(10**6, 10 * PAUSE), FOREVER),
    "hang": _requests(hang()),
    "hang for good": _requests(hang(), FOREVER),
    "lost response": _requests(lose_answer()),
    "failing create": _operation(refuse(500, "InternalError"), Operation.CREATE_UPLOAD),
    "failing complete": _operation(refuse(500, "InternalError"), Operation.COMPLETE_UPLOAD),
    "error in a complete": _operation(refuse(200, "InternalError"), Operation.COMPLETE_UPLOAD),
    "list lag": _operation(lag(4), Operation.LIST),
    "crash before": lambda target: target.server.crash(*target.operations, key=target.key, effect=False),
    "crash behind": lambda target: target.server.crash(*target.operations, key=target.key),
}
