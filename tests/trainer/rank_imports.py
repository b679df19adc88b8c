"""Imported once by the process that ranks are forked from (`forked.py`): what every rank of the trainer imports."""

from __future__ import annotations

import gc

import deepspeed
import peft
import torch

import finetune_trainer.finish
import finetune_trainer.loop

__all__ = ["deepspeed", "finetune_trainer", "peft", "torch"]

gc.freeze()  # collections in the ranks neither look at what is here nor copy its pages
