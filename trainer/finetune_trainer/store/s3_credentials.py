"""Keeps temporary credentials fresh over a run of days, and outlives an outage of whatever gives them.

botocore renews credentials 15 minutes before their end and gives up 10 minutes before it: from then on every request
fails, though its credentials are good. Here they are used until their last minute, a renewal that fails is made again
in a minute or two, and in the last minute requests wait for one. Nothing is tried in place of what the environment
names: no node's role comes in for a token that cannot be exchanged.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Any

from botocore import credentials as chain
from botocore.exceptions import ClientError, ConnectionError, CredentialRetrievalError, HTTPClientError, SSLError

logger = logging.getLogger(__name__)

# Before their end, when credentials are renewed; half of their life for those that live shorter than twice that.
# botocore's cache of roles allows no more.
EARLY_SECONDS = 900.0
# Before their end, when requests wait for the renewal; more than the clocks of two machines with NTP differ.
LAST_SECONDS = 60.0
# At most between two renewals that fail, at least half of it.
AGAIN_SECONDS = 120.0
# How long requests wait in all while nobody gives new credentials.
OUTAGE_SECONDS = 600.0
WAIT_SECONDS = 10.0
BUSY = ("Throttling", "ThrottlingException", "RequestLimitExceeded", "IDPCommunicationError")

sleep = time.sleep


def keep_renewed(credentials: Any) -> None:
    """Change how credentials of botocore's chain are renewed; those without an end stay as they are."""
    if isinstance(credentials, chain.RefreshableCredentials):
        _Renewal(credentials)


class _Renewal:
    """Stands between a RefreshableCredentials, which calls it when a renewal is due, and what fetches new ones."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._fetch = credentials._refresh_using
        self._waiting_since: float | None = None
        credentials._refresh_using = self
        credentials._time_fetcher = _clock
        credentials._mandatory_refresh_timeout = LAST_SECONDS

    def __call__(self) -> dict[str, Any]:
        """New credentials, in the form of botocore's fetchers; raises what these raise.

        botocore goes on with the old ones after an error while they are good for more than LAST_SECONDS.
        """
        while True:
            try:
                found: dict[str, Any] = self._fetch()
            except Exception as error:
                if not self._waits_after(error):
                    raise
                logger.warning("no new S3 credentials, trying on: %s", error)
            else:
                self._plan_next(found)
                return found
            sleep(random.uniform(0, WAIT_SECONDS))

    def _waits_after(self, error: Exception) -> bool:
        """Whether to try again at once; credentials that were never there are not waited for."""
        now, end = _clock().timestamp(), self._credentials._expiry_time
        if end is None:
            return False
        left = end.timestamp() - now
        if left > LAST_SECONDS:
            later = left - random.uniform(AGAIN_SECONDS / 2, AGAIN_SECONDS)
            self._credentials._advisory_refresh_timeout = max(LAST_SECONDS, later)
            return False
        self._waiting_since = self._waiting_since or now  # one wait for all threads, which come here one by one
        return _passing(error) and now - self._waiting_since < OUTAGE_SECONDS

    def _plan_next(self, found: dict[str, Any]) -> None:
        """Spread the renewals of many ranks over a third of the time that there is."""
        self._waiting_since = None
        life = self._credentials._expiry_datetime(found["expiry_time"]).timestamp() - _clock().timestamp()
        early = min(EARLY_SECONDS, life / 2) * random.uniform(2 / 3, 1)
        self._credentials._advisory_refresh_timeout = max(LAST_SECONDS, early)


def _clock() -> Any:
    """An aware datetime, by the clock of botocore's cache of roles."""
    return chain._local_now()  # type: ignore[attr-defined]  # missing in its stubs


def _passing(error: Exception) -> bool:
    """Whether the same request may succeed later: nobody answers, or who answers is busy or broken."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or error.response.get("Error", {}).get("Code") in BUSY
    broken = isinstance(error, ConnectionError | HTTPClientError | CredentialRetrievalError)
    return broken and not isinstance(error, SSLError)
