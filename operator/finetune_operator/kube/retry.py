"""Which refused requests are sent again by the client itself, and when."""

from __future__ import annotations

import random
from collections.abc import Callable

from finetune_operator.kube.errors import ApiError, ServerError, TooManyRequests

MOST_TRIES = 5
LONGEST_WAIT = 30.0
"""Seconds; a server that asks for more gets this, and the caller the error after MOST_TRIES."""


def wait_before_retry(
    error: ApiError, *, creates: bool, tries: int, jitter: Callable[[], float] = random.random
) -> float | None:
    """Return the seconds after which to send a request again that failed `tries` times; None: its caller decides.

    Only what the server surely did not do is sent again: 429 always, 503 when it says when to come back. A create may
    have been done behind a 503, and everything may after a lost connection, so that is left to who can read first.
    """
    if tries >= MOST_TRIES:
        return None
    asked_later = isinstance(error, ServerError) and error.status == 503 and error.retry_after is not None
    if not (isinstance(error, TooManyRequests) or (asked_later and not creates)):
        return None
    wait = error.retry_after or 0.25 * 2**tries
    return min(wait, LONGEST_WAIT) * (1 + 0.25 * jitter())
