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
            [f"spec.objective.type: is not available yet: write CPT or SFT (got '{name}')"],
        )
        for name in ("DPO", "ORPO", "KTO", "Reward", "Classification", "GRPO")
    },
    **{
        f"options of {name}": (
            {f"objective.{name}": {"beta": 0.2}},
            [f"spec.objective.{name}: is not available yet: remove it (got 'a mapping')"],
        )
        for name in ("dpo", "orpo", "kto", "reward", "classification", "grpo")
    },
    **{
        name: (
            {"data.train.0.format": name},
            [
                "spec.data.train[0].format: is not available yet: write Auto, Messages, ShareGPT, Alpaca, "
                f"PromptCompletion or Text (got '{name}')"
            ],
        )
        for name in ("Preference", "UnpairedPreference")
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
