"""Peak memory as predicted, against what torch's allocator gave out while the engine trained (docs/memory.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_cases import FEW, MORE, PARTS, UNSEEN, Case, measured, predicted

TOLERANCE = 0.10
ALL = (*FEW, *MORE, *UNSEEN, *PARTS)


def misses(found: dict[Case, int]) -> dict[str, str]:
    """The cases that are predicted too badly, with the prediction over the measured peak."""
    ratios = {case.name: predicted(case) / size for case, size in found.items()}
    return {name: f"{ratio - 1:+.1%}" for name, ratio in ratios.items() if abs(ratio - 1) > TOLERANCE}


@pytest.mark.timeout(900)
def test_the_peak_of_a_rank_is_within_a_tenth_of_what_is_measured(tmp_path: Path) -> None:
    assert misses(measured(FEW, tmp_path)) == {}


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_so_it_is_for_parts_of_the_weights_and_variants_of_adapters(tmp_path: Path) -> None:
    assert misses(measured(PARTS, tmp_path)) == {}


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("cases", [MORE, UNSEEN], ids=["more", "unseen"])
def test_so_it_is_for_more_models_and_settings(tmp_path: Path, cases: tuple[Case, ...], ranks: int) -> None:
    assert misses(measured([case for case in cases if case.ranks == ranks], tmp_path)) == {}


def test_no_case_is_there_twice() -> None:
    assert len({case.name for case in ALL}) == len(ALL) >= 12
