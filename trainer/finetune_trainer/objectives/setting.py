"""What an objective is built from, and which one a job asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from finetune_trainer.data import LabelSet, Row
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.loss import Objective
from finetune_trainer.spec import FineTuneJob


@dataclass(frozen=True)
class Setting:
    """A run as an objective sees it.

    `model_path`: the local folder of the model that training starts from. `first_rows`: of the first block of the
    training data, for a look at what they hold. `labels`: a classifier's.
    """

    job: FineTuneJob
    forward: Forward
    control: ControlGroup
    model_path: Path
    first_rows: Sequence[Row]
    labels: LabelSet | None = None


def objective_of(setting: Setting) -> Objective:
    """The objective of `spec.objective`, from the module that is named like its type."""
    name = str(setting.job.spec.objective.type).lower()
    module: Any = import_module(f"finetune_trainer.objectives.{name}")
    objective: Objective = module.build(setting)
    return objective
