"""How long `finetune run` lets a stopped run commit: by its operator, by its manifest, or as long as its user likes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_trainer.launch.supervisor import GRACE_SECONDS, grace_of
from finetune_trainer.spec import FineTuneJob, parse_job
from launch_job import manifest


def job(asked: int | None, uid: str | None = "5f0f9a3e-6e0b-4a57-9c1e-2f1f0c5b7a11") -> FineTuneJob:
    spec: dict[str, Any] = {} if asked is None else {"terminationGracePeriodSeconds": asked}
    document = manifest(**spec)
    document["metadata"] |= {} if uid is None else {"uid": uid}
    return parse_job(json.dumps(document))


@pytest.mark.parametrize(
    ("told", "asked", "grace"), [("840", 60, 840), (None, 60, 60), ("840", None, 840), (None, None, 300)]
)
def test_the_operator_has_the_last_word_on_the_time_that_a_stop_may_take(
    told: str | None, asked: int | None, grace: float
) -> None:
    assert grace_of(job(asked), {} if told is None else {GRACE_SECONDS: told}) == grace


def test_at_a_terminal_the_user_decides() -> None:
    assert grace_of(job(60, uid=None), {}) is None
