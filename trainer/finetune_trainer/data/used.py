"""What of a data set is read by pages that a node can keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from finetune_trainer.data.containers import Container
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.keep import Used
from finetune_trainer.data.paged import pages_of
from finetune_trainer.data.tokens.read import TokenForm


def used_pages(index: DatasetIndex, forms: Mapping[int, TokenForm], uses: float | None = None) -> Iterator[Used]:
    """What is read of the sources of `index` out of S3: pages of token forms, chunks of JSON lines, bytes of files.

    `uses`: how often in an epoch, if that is not what the weights say.
    """
    for number, source in enumerate(index.sources):
        often = math.ceil(source.weight) if uses is None else uses
        if number in forms:
            form = forms[number]
            if _remote(form.store.uri):
                yield Used(form.id, sum(form.index.sizes), form.index.first_pages[-1], often)
        elif _remote(source.root):
            lines = [file.size for file in source.files if file.container is Container.JSONL]
            if lines:
                yield Used(source.place, sum(lines), len(index.table.ranges[number]), often)
            others = [file.size for file in source.files if file.container is not Container.JSONL]
            if others:
                pages = sum(pages_of(file.size) for file in source.files)
                yield Used(source.files_id, sum(others), pages, often)


def _remote(uri: str) -> bool:
    return uri.startswith("s3://")
