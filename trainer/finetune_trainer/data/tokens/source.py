"""What becomes of every record of a source, in order, as its token form stores it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import islice

from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.order import SequentialOrder
from finetune_trainer.data.outcomes import OutcomeReader, RecordEncoder
from finetune_trainer.data.prefetch import prefetched
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.tokens.format import Result

BLOCKS_AHEAD = 1


def source_results(
    index: DatasetIndex, source: int, settings: DataSettings, encoder: Encoder
) -> Generator[list[Result]]:
    """The results of each chunk of source `source`, one list per chunk; `encoder` is that of the whole data set.

    Raises DataError for a file that changed or cannot be decoded, StorageError where reading fails.
    """
    alone = DatasetIndex(sources=(index.sources[source].model_copy(update={"weight": 1.0}),))
    order = SequentialOrder(alone.table)
    with OutcomeReader(alone, RecordEncoder(alone, settings, encoder), {}) as reader:
        built = prefetched(reader.read, order.blocks(), BLOCKS_AHEAD)
        with closing(built) as blocks:
            for block, outcomes in blocks:
                results = iter([outcome.result for outcome in outcomes])
                for part in block.parts:
                    yield list(islice(results, part.records))
