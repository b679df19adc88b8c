"""A model that lets packed documents see each other is not trained on packed rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import SpecError
from loop_runner import Recorder, Train
from small_job import make_small_job

FULL: dict[str, Any] = {"method": {"type": "Full", "lora": None}, "training": {"maxSteps": 1}}
ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}


def test_a_run_with_a_leaking_model_is_refused_before_its_first_step(train: Train, tmp_path: Path) -> None:
    """Mamba's layers carry their state from one document of a row to the next."""
    job = make_small_job(tmp_path, kind="mamba")
    recorder = Recorder()
    with pytest.raises(SpecError, match=r"spec\.data\.packing: lets documents see each other.*write None"):
        train(job.write("packed", **FULL, **ONE_RANK), recorder)
    assert recorder.of("progress") == recorder.of("audit") == []
    result, recorder = train(job.write("one-by-one", data={"packing": "None"}, **FULL, **ONE_RANK))
    assert result["step"] == 1
    assert recorder.of("audit")[0]["isolation"] == "not packed"
