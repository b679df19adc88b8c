"""What becomes of every record of a source, in order, as its token form stores it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import islice

from finetune_trainer.data.columns import Result
from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.order import SequentialOrder
from finetune_trainer.data.outcomes import RecordEncoder
from finetune_trainer.data.prefetch import prefetched
from finetune_trainer.data.reader import RecordReader
from finetune_trainer.data.settings import DataSettings

BLOCKS_AHEAD = 1


def source_results(
    index: DatasetIndex, source: int, settings: DataSettings, encoder: Encoder
) -> Generator[list[Result]]:
    """The results of each chunk of source `source`, one list per chunk; `encoder` is that of the whole data set.

    Raises DataError for a file that changed or cannot be decoded, StorageError where reading fails.
    """
    alone = DatasetIndex(sources=(index.sources[source].model_copy(update={"weight": 1.0}),))
    order = SequentialOrder(alone.table)
    records_encoder = RecordEncoder(alone, settings, encoder)
    with RecordReader(alone) as reader:
        encoded = prefetched(lambda block: records_encoder.look(reader.read(block)), order.blocks(), BLOCKS_AHEAD)
        with closing(encoded) as blocks:
            for block, seen in blocks:
                results = iter([one.result for one in seen])
                for part in block.parts:
                    yield list(islice(results, part.records))
