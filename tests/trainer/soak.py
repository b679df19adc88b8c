"""Long trials: the first few in the normal test run, all of them by `make soak`; a trial's number is its seed."""

from __future__ import annotations

import os

import pytest

FIRST = int(os.environ.get("SOAK_FIRST", "0"))
MOST = int(os.environ.get("SOAK_TRIALS", "1000000"))


def trials(share: int, whole: int) -> pytest.MarkDecorator:
    """Give a test `trials`, the numbers of its trials: 0 ... `share` - 1, and as a test of its own marked `soak` all
    `whole` of them.

    SOAK_FIRST and SOAK_TRIALS choose others for the latter: SOAK_FIRST=873 SOAK_TRIALS=1 repeats one that failed.
    """
    soak = [pytest.mark.soak, pytest.mark.timeout(4 * 3600)]
    chosen = range(FIRST, FIRST + min(whole, MOST))
    return pytest.mark.parametrize(
        "trials", [pytest.param(range(share), id="share"), pytest.param(chosen, id="all", marks=soak)]
    )
