"""What the training minimises, one module per objective, named like its type in the manifest.

A module has `build(setting)`, which returns its `Objective`; what the objective takes (formats, overlong records,
whether a record is a pair) stands in `finetune_trainer.spec.objective.OBJECTIVES`.
"""

from finetune_trainer.objectives.setting import Setting, objective_of

__all__ = ["Setting", "objective_of"]
