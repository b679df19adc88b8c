"""Credentials that end during a run: renewed early, once for all threads, and past an outage of the STS."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from botocore import credentials as chain

from faults import FOREVER
from faulty_http import refuse
from faulty_proxy import faulty_proxy
from finetune_trainer.errors import StorageError
from finetune_trainer.store import ObjectStore, StoreUnreachable, open_store, s3_credentials
from s3_server import S3Server, free_port
from web_tenant import MINE, ROLE, SUBJECT, Tenant

THREADS = 8
LIFE = 3600


class Clock:
    """A clock that runs ahead of the real one by what the test has let pass; waiting lets that time pass."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(chain, "_local_now", clock)
    monkeypatch.setattr(s3_credentials, "sleep", clock.sleep)
    return clock


@pytest.fixture
def store(tenant: Tenant) -> Iterator[ObjectStore]:
    """The tenant's own bucket, through which something has been written already."""
    store = open_store(MINE)
    store.put("first", b"data")
    yield store
    tenant.proxy.faults.clear()


def use(store: ObjectStore) -> None:
    """Requests of several threads at once, as a save makes them."""
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(store.get, ["first"] * THREADS * 2)) == [b"data"] * THREADS * 2


def test_three_rotations_fail_no_request_and_cost_one_exchange_each(
    tenant: Tenant, store: ObjectStore, clock: Clock
) -> None:
    for _ in range(3):
        before = tenant.exchanges()
        clock.sleep(LIFE - 910)
        use(store)
        assert tenant.exchanges() == before, "they were renewed before it was time"
        tenant.server.add_role(ROLE, "a", [SUBJECT], seconds=LIFE + int(clock.ahead) + 310)  # by the server's own clock
        clock.sleep(310)
        use(store)
        use(store)
        assert tenant.exchanges() == before + 1


def test_an_outage_of_the_sts_of_ten_minutes_fails_no_request_and_is_no_storm(
    tenant: Tenant, store: ObjectStore, clock: Clock
) -> None:
    before = tenant.exchanges()
    tenant.proxy.inject("POST", refuse(503, "ServiceUnavailable"), times=FOREVER)
    clock.sleep(LIFE - 800)
    for _ in range(20):  # from 800 to 200 seconds before the end
        use(store)
        clock.sleep(30)
    tries = (tenant.exchanges() - before) / 2  # the SDK makes two of each
    assert 4 <= tries <= 11
    tenant.proxy.faults.clear()
    tenant.server.add_role(ROLE, "a", [SUBJECT], seconds=LIFE + int(clock.ahead))
    clock.sleep(120)
    before = tenant.exchanges()
    use(store)
    assert tenant.exchanges() == before + 1


def test_requests_wait_past_the_end_of_the_old_ones_until_the_sts_is_back(
    tenant: Tenant, store: ObjectStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = itertools.count(1)

    def sleep(seconds: float) -> None:
        clock.sleep(60)
        if next(waits) == 5:
            tenant.proxy.faults.clear()

    monkeypatch.setattr(s3_credentials, "sleep", sleep)
    tenant.server.add_role(ROLE, "a", [SUBJECT], seconds=3 * LIFE)
    tenant.proxy.inject("POST", refuse(503, "ServiceUnavailable"), times=FOREVER)
    clock.sleep(LIFE - 30)
    use(store)
    assert next(waits) == 6
    assert clock.ahead > LIFE


def test_an_outage_that_lasts_longer_is_an_error_after_one_wait_of_all_threads(
    tenant: Tenant, store: ObjectStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_credentials, "sleep", lambda _: clock.sleep(60))
    tenant.proxy.inject("POST", refuse(503, "ServiceUnavailable"), times=FOREVER)
    clock.sleep(LIFE - 30)
    began = clock.ahead
    with ThreadPoolExecutor(THREADS) as pool:
        failed = [pool.submit(store.get, "first").exception() for _ in range(THREADS)]
    for error in failed:
        assert isinstance(error, StorageError)
        assert error.retryable
        assert f"no S3 credentials from {tenant.proxy.endpoint}: it failed" in str(error)
    assert 480 <= clock.ahead - began <= 600  # what is missing passed really


def test_no_role_of_the_node_comes_in_for_a_token_that_cannot_be_exchanged(
    tenant: Tenant, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    with faulty_proxy(s3.port) as node:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", node.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(StoreUnreachable, match="AWS_ENDPOINT_URL_STS"):
            open_store(MINE).get("first")
        assert node.seen == []
        monkeypatch.delenv("AWS_ROLE_ARN")
        with pytest.raises(StorageError, match="no role ARN"):
            open_store(MINE).get("first")
        assert node.seen == []
        monkeypatch.delenv("AWS_WEB_IDENTITY_TOKEN_FILE")
        with pytest.raises(StorageError, match="there are no S3 credentials"):
            open_store(MINE).get("first")
        assert node.seen != [], "this is what it would ask"


def test_credentials_that_live_shortly_are_not_renewed_for_each_request(tenant: Tenant, clock: Clock) -> None:
    tenant.server.add_role(ROLE, "a", [SUBJECT], seconds=900)  # AWS's shortest
    store = open_store(MINE)
    store.put("first", b"data")
    use(store)
    assert tenant.exchanges() == 1
    clock.sleep(610)
    tenant.server.add_role(ROLE, "a", [SUBJECT], seconds=900 + 610)
    use(store)
    assert tenant.exchanges() == 2
