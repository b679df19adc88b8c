"""One page at a time: who fetches it, who waits, which ones stay."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_trainer.data import Keeping, NodeCache
from finetune_trainer.data import pages as pages_module
from finetune_trainer.data.keep import Used
from finetune_trainer.data.pages import Place
from finetune_trainer.store import CorruptObject

PAGES = {"a": 60, "b": 30, "c": 10}


def test_sources_that_are_read_more_often_come_first() -> None:
    keeping = Keeping([Used("a", 600, 60, 1), Used("b", 300, 30, 3), Used("c", 100, 10, 1)], 500)
    kept = {
        id: sum(keeping.keeps(id, page) for page in range(pages)) for id, pages in (("a", 60), ("b", 30), ("c", 10))
    }
    assert kept["b"] == 30
    assert 0.8 * 200 < 10 * (kept["a"] + kept["c"]) <= 200
    assert Keeping([Used("a", 600, 60, 1)], 600).keeps_all("a")
    assert "d" not in keeping


STUCK = """
import sys, time
from pathlib import Path
from finetune_trainer.data.keep import Keeping, Used
from finetune_trainer.data.pages import NodeCache, Place
place = Place("a", "page-0", 1000, 0)
pages = NodeCache(Path(sys.argv[1]), Keeping([Used("a", 1000, 1, 1)], 1000)).reader("train")
def fetch():
    [part] = Path(sys.argv[1]).rglob("*.part")
    part.write_bytes(b"half of it")
    print("fetching", flush=True)
    time.sleep(600)
pages.page(place, fetch)
"""


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], NodeCache, Place]]:
    """A process that is in the middle of fetching a page, the same page for this one."""
    command = [sys.executable, "-c", STUCK, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fetching\n"
        try:
            yield (
                process,
                NodeCache(tmp_path, Keeping([Used("a", 1000, 1, 1)], 1000), 1, 2),
                Place("a", "page-0", 1000, 0),
            )
        finally:
            process.kill()


def test_a_rank_that_is_killed_while_it_fetches_costs_nothing(
    stuck: tuple[subprocess.Popen[str], NodeCache, Place],
) -> None:
    process, cache, place = stuck
    page = os.urandom(1000)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.reader("train").page, place, lambda: page)
        assert not waiting.done()
        process.kill()
        assert waiting.result(20) == page
    assert cache.counts == {"fetched": 1, "bytes": 1000}
    assert cache.reader("train").page(place, lambda: b"") == page


def test_who_waits_too_long_for_another_reads_alone(
    stuck: tuple[subprocess.Popen[str], NodeCache, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache, place = stuck
    monkeypatch.setattr(pages_module, "WAIT_SECONDS", 0.1)
    began = time.monotonic()
    assert cache.reader("train").page(place, lambda: b"x" * 1000) == b"x" * 1000
    assert time.monotonic() - began < 10
    assert cache.counts == {"fetched": 1, "bytes": 1000, "alone": 1}


def test_a_page_that_cannot_be_fetched_leaves_its_turn_to_the_next(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, Keeping([Used("a", 10, 1, 1)], 10))
    place = Place("a", "page-0", 10, 0)

    def fail() -> bytes:
        raise CorruptObject("it is damaged")

    with pytest.raises(CorruptObject):
        cache.reader("train").page(place, fail)
    assert cache.reader("train").page(place, lambda: b"0123456789") == b"0123456789"
    assert cache.reader("train").page(place, fail) == b"0123456789"


def test_pages_that_pass_are_there_for_the_others_in_every_walk(tmp_path: Path) -> None:
    caches = [NodeCache(tmp_path, Keeping([Used("a", 2000, 20, 1)], 0), rank, 2) for rank in range(2)]
    walks = [cache.reader("eval-0") for cache in caches]
    for _ in range(3):
        for block in range(21):
            for walk, at in zip(walks, (block, block - 1), strict=True):  # the second one is a block behind
                if 0 <= at < 20:
                    walk.enter(0, at)
                    walk.page(Place("a", f"page-{at}", 100, at), lambda: bytes(100))
    assert (caches[1].counts["fetched"], caches[0].counts["fetched"] <= 3 * 20) == (0, True)
