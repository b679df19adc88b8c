"""How full rows are packed without cutting a document, against TRL's best fit; nothing is timed."""

from __future__ import annotations

import pytest
from rich.console import Console

from bench.bounds import bounds
from bench.packing import log_normal_lengths, our_fill, trl_fill

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("capacity", [2048, 8192])
def test_rows_of_log_normal_documents_are_filled_at_least_as_far_as_by_trl(capacity: int) -> None:
    lengths = log_normal_lengths(20_000, capacity)
    ours, theirs = our_fill(lengths, capacity), trl_fill(lengths, capacity)
    Console(width=120).print(
        f"Fill of rows of {capacity}: ours {ours:.4f}, TRL's bfd {theirs:.4f}, nothing cut by either"
    )
    assert ours >= bounds()["packing-fill"]["bound"]
    assert ours / theirs >= bounds()["packing-fill-trl"]["bound"]
