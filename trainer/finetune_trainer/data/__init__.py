"""From data sources to rows of tokens: index, order, formats, masks, packing and the stream. Imports no torch."""

from __future__ import annotations

from finetune_trainer.data.collate import Batch, collate
from finetune_trainer.data.rows import IGNORED, Counters, DataState, RecordId, Row, StepBatch

__all__ = ["IGNORED", "Batch", "Counters", "DataState", "RecordId", "Row", "StepBatch", "collate"]
