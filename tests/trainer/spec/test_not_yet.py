"""What the format knows and the trainer cannot do yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Problems = Callable[[dict[str, Any]], list[str]]

NOT_YET: dict[str, tuple[dict[str, Any], list[str]]] = {
    **{
        name: (
            {"objective.type": name},
            [
                "spec.objective.type: is not available yet: write CPT, SFT, DPO, ORPO, KTO, Reward or Classification "
                f"(got '{name}')"
            ],
        )
        for name in ("GRPO",)
    },
    **{
        f"options of {name}": (
            {f"objective.{name}": {"beta": 0.2}},
            [f"spec.objective.{name}: is not available yet: remove it (got 'a mapping')"],
        )
        for name in ("grpo",)
    },
    "NVMe": (
        {"deepspeed.offloadOptimizer": "NVMe"},
        ["spec.deepspeed.offloadOptimizer: is not available yet: write None or CPU (got 'NVMe')"],
    ),
}


@pytest.mark.parametrize("case", NOT_YET)
def test_what_is_not_there_yet_says_what_works_today(problems: Problems, case: str) -> None:
    edits, expected = NOT_YET[case]
    assert problems(edits) == expected
