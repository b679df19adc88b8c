"""DeepSpeed, imported without MLflow.

DeepSpeed's autotuner, which is imported with it, imports MLflow wherever that is installed: 3 of 5 seconds in every
rank, and a tracker is a process of its own (docs/adr/0026).
"""

from __future__ import annotations

from finetune_trainer.model.absent import without

with without("mlflow"):
    import deepspeed

__all__ = ["deepspeed", "without"]
