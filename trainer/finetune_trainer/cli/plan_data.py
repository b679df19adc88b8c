"""How much data a job has, as far as that is known without reading it."""

from __future__ import annotations

from finetune_trainer.errors import FinetuneError
from finetune_trainer.spec import FineTuneJob, Packing

BYTES_PER_TOKEN = 4.0
"""Of English text under a vocabulary of 100,000 and more, as usual; other languages and code have fewer."""


def rows_of_an_epoch(job: FineTuneJob, tokens: int | None) -> float | None:
    """Rows of the training data: by its tokens, or by the index that an earlier run or report left; None if unknown.

    Packed rows are taken to be full; of an index the tokens are a guess by the records' bytes. Nothing is asked of
    stores for a job that trains a number of steps.
    """
    packed = job.spec.data.packing == Packing.BEST_FIT
    if tokens is not None and packed:
        return tokens / job.spec.data.max_length
    if job.spec.training.epochs is None:
        return None
    from finetune_trainer.data import kept_train_index

    try:
        index = kept_train_index(job.spec)
    except FinetuneError:  # a store that cannot be read is no mistake here
        return None
    if index is None:
        return None
    if not packed:
        return sum(source.weight * source.records for source in index.sources)
    size = sum(source.weight * sum(map(sum, (file.sizes for file in source.files))) for source in index.sources)
    return size / BYTES_PER_TOKEN / job.spec.data.max_length
