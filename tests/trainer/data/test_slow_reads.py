"""A store that is slow to answer now and then, or altogether, and what the reader of token forms does about it."""

from __future__ import annotations

import time
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event

import pytest

from faulty_http import hang
from faulty_proxy import faulty_proxy
from finetune_trainer.data import TrainStream, find_form
from finetune_trainer.data.tokens import read, write
from finetune_trainer.data.tokens.hedge import KNOWN, MOST_EXTRA, Hedge
from finetune_trainer.store import open_store
from finetune_trainer.store.s3_client import READ_SECONDS
from s3_bucket import Bucket
from small_data import conversation, index_of, make_tokenizer, settings, source, write_records
from token_forms import publish_source

WAIT = 20.0


def test_a_page_that_never_comes_is_asked_for_again_and_holds_nothing_up(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)
    monkeypatch.setattr(write, "CHUNK_BYTES", 30_000)
    monkeypatch.setattr(read.TokenReader.__init__, "__defaults__", (0,))  # page by page
    index = index_of(source(write_records(tmp_path / "a.jsonl", [conversation(i) for i in range(800)])))
    form = publish_source(open_store(f"{bucket.uri}/tokens"), index, 0, settings())
    chosen = settings(epochs=2, global_batch_size=7)
    expected = [batch.state for batch in TrainStream(index, chosen, make_tokenizer(), forms={0: form}).batches()]
    with faulty_proxy(bucket.server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        found = find_form(open_store(f"{bucket.uri}/tokens"), form.index.key)
        assert found is not None
        began, states = time.monotonic(), []
        for batch in TrainStream(index, chosen, make_tokenizer(), forms={0: found}).batches():
            states.append(batch.state)
            if len(states) == 2:
                proxy.inject("GET", hang(), part=".tokens")
        assert states == expected
        assert time.monotonic() - began < READ_SECONDS / 2  # after which a request is given up and tried again
        reads = 2 * sum(form.index.pages) + len(form.index.pages)
        assert reads < proxy.count("GET", ".tokens") <= reads + 1 + MOST_EXTRA * reads + read.THREADS


def test_of_two_requests_the_first_answer_counts() -> None:
    hedge, never = Hedge(), Event()
    for number in range(KNOWN):
        assert hedge.read(partial(int, number)) == number
    calls = count()
    assert hedge.read(lambda: next(calls) or never.wait(WAIT)) == 1
    assert next(calls) == 2
    never.set()


def test_a_store_that_is_slow_altogether_is_not_asked_twice_as_much() -> None:
    hedge, calls = Hedge(), count()
    for _ in range(KNOWN):
        hedge.read(lambda: next(calls))

    def slow() -> None:
        next(calls)
        Event().wait(0.03)

    for _ in range(40):
        hedge.read(slow)
    extra = next(calls) - KNOWN - 40
    assert 0 < extra <= MOST_EXTRA * (KNOWN + 40) + 1


def test_a_failure_is_that_of_the_read_unless_the_other_request_succeeds() -> None:
    hedge, ready = Hedge(), Event()

    def refused() -> int:
        raise ValueError("no")

    for _ in range(KNOWN):
        hedge.read(int)
    with pytest.raises(ValueError, match="no"):
        hedge.read(refused)
    calls = count()

    def second_fails() -> str:
        if next(calls):
            ready.set()
            raise ValueError("no")
        ready.wait(WAIT)
        return "first"

    assert hedge.read(second_fails) == "first"
