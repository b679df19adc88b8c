"""From data sources to rows of tokens: index, order, formats, masks, packing and the stream. Imports no torch.

`list_sources` and `cached_index` find the records; `TrainStream` hands out global batches of rows from any state on,
`EvalSet` held-out rows; `collate` makes rows rectangular. `publish` stores the token form of a source, which
both read in place of it where `find_form` finds it. `data_report` tells what is in all of it.
"""

from finetune_trainer.data.audit import Audit
from finetune_trainer.data.block import Quarantined
from finetune_trainer.data.collate import Batch, collate
from finetune_trainer.data.deal import deal
from finetune_trainer.data.encode import Encoder, encoder_of
from finetune_trainer.data.evalset import EvalSet
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.indexing import (
    IndexProgress,
    build_index,
    cached_index,
    check_formats,
    job_indices,
    kept_train_index,
)
from finetune_trainer.data.keep import Keeping
from finetune_trainer.data.label_set import LabelSet, other_labels
from finetune_trainer.data.labels import with_labels
from finetune_trainer.data.pack import best_fit
from finetune_trainer.data.pages import UNSHARED, NodeCache, Pages
from finetune_trainer.data.report import DataReport
from finetune_trainer.data.report_read import Amount, data_report
from finetune_trainer.data.rows import (
    IGNORED,
    Counters,
    DataState,
    RecordId,
    Row,
    StepBatch,
    count_documents,
    document_targets,
    documents_of,
    joined,
)
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.sources import ListedSource, list_sources, listing_digest
from finetune_trainer.data.stream import TrainStream
from finetune_trainer.data.tokens.find import find_form, form_facts, form_key
from finetune_trainer.data.tokens.format import token_type
from finetune_trainer.data.tokens.read import TokenForm
from finetune_trainer.data.tokens.source import source_results
from finetune_trainer.data.tokens.write import point_to, publish
from finetune_trainer.data.used import used_pages

__all__ = [
    "IGNORED",
    "UNSHARED",
    "Amount",
    "Audit",
    "Batch",
    "Counters",
    "DataReport",
    "DataSettings",
    "DataState",
    "DatasetIndex",
    "Encoder",
    "EvalSet",
    "IndexProgress",
    "Keeping",
    "LabelSet",
    "ListedSource",
    "NodeCache",
    "Pages",
    "Quarantined",
    "RecordId",
    "Row",
    "StepBatch",
    "TokenForm",
    "TrainStream",
    "best_fit",
    "build_index",
    "cached_index",
    "check_formats",
    "collate",
    "count_documents",
    "data_report",
    "deal",
    "document_targets",
    "documents_of",
    "encoder_of",
    "find_form",
    "form_facts",
    "form_key",
    "job_indices",
    "joined",
    "kept_train_index",
    "list_sources",
    "listing_digest",
    "other_labels",
    "point_to",
    "publish",
    "source_results",
    "token_type",
    "used_pages",
    "with_labels",
]
