"""The model at hand: fetched, loaded, adapted, proved to keep packed documents apart.

Its way out, as files for others, is `finetune_trainer.export`.
"""

from finetune_trainer.model.head import KeptPositions
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora

__all__ = ["KeptPositions", "apply_lora", "load_model"]
