"""Continued pre-training: cross-entropy of every token of a text. What is trained is the data's part."""

from finetune_trainer.objectives.sft import build

__all__ = ["build"]
