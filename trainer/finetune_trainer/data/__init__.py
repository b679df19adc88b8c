"""From data sources to rows of tokens: index, order, formats, masks, packing and the stream. Imports no torch.

`list_sources` and `cached_index` find the records; `TrainStream` hands out global batches of rows from any state on,
`EvalSet` held-out rows; `collate` makes rows rectangular; `data_report` tells what is in all of it.
"""

from finetune_trainer.data.audit import Audit
from finetune_trainer.data.block import Quarantined
from finetune_trainer.data.collate import Batch, collate
from finetune_trainer.data.evalset import EvalSet
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.indexing import IndexProgress, build_index, cached_index, check_formats, job_indices
from finetune_trainer.data.report import DataReport
from finetune_trainer.data.report_read import Amount, data_report
from finetune_trainer.data.rows import IGNORED, Counters, DataState, RecordId, Row, StepBatch
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.sources import ListedSource, list_sources, listing_digest
from finetune_trainer.data.stream import TrainStream

__all__ = [
    "IGNORED",
    "Amount",
    "Audit",
    "Batch",
    "Counters",
    "DataReport",
    "DataSettings",
    "DataState",
    "DatasetIndex",
    "EvalSet",
    "IndexProgress",
    "ListedSource",
    "Quarantined",
    "RecordId",
    "Row",
    "StepBatch",
    "TrainStream",
    "build_index",
    "cached_index",
    "check_formats",
    "collate",
    "data_report",
    "job_indices",
    "list_sources",
    "listing_digest",
]
