"""What an objective is built from, and which one a job asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from finetune_trainer.data import EvalSet, LabelSet, Row
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.loss import Objective
from finetune_trainer.spec import FineTuneJob


@dataclass(frozen=True)
class Setting:
    """A run as an objective sees it.

    `load_base`: makes the model that training starts from once more, before adapters; `start`: JSON that tells this
    model, its tokenizer and the checkpoint whose weights are put into it from others. `first_rows`: of the first block
    of the training data, for a look at what they hold. `once`: the training data and the held-out sets, each to be read
    once and in order. `labels`: a classifier's.
    """

    job: FineTuneJob
    forward: Forward
    control: ControlGroup
    load_base: Callable[[], Any]
    start: Mapping[str, Any]
    first_rows: Sequence[Row]
    once: Callable[[], Sequence[EvalSet]]
    labels: LabelSet | None = None


def objective_of(setting: Setting) -> Objective:
    """The objective of `spec.objective`, from the module that is named like its type."""
    name = str(setting.job.spec.objective.type).lower()
    module: Any = import_module(f"finetune_trainer.objectives.{name}")
    objective: Objective = module.build(setting)
    return objective
