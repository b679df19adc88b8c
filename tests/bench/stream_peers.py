"""One library that streams tokens from S3, in a process of its own: stores a set of documents and reads it on request.

    python stream_peers.py <peer> <bucket> <chunks of documents> <folder for its files>

Reads `prepare` and `read` from stdin and answers each with a line of JSON. `read` goes through one epoch in an order of
its own, with nothing kept from the one before, and tells its tokens, the seconds from opening the data to the last
batch, and the processor seconds of all threads and worker processes. Credentials and address come from the AWS
environment.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from finetune_trainer.data import DataSettings, TrainStream

ROW = 2048
"""Tokens of a row; no document is longer."""
BATCH = 16
VOCABULARY = 32_000
CHUNK = 256
"""Documents generated together."""

Document = np.ndarray[Any, np.dtype[np.int32]]


class Peer(Protocol):
    """A library: `prepare` stores all documents, `batches` yields the tokens of each batch of an epoch."""

    def prepare(self) -> None:
        """Store the documents."""
        ...

    def batches(self, number: int) -> Iterator[int]:
        """Read epoch `number`."""
        ...


def documents(chunk: int) -> list[Document]:
    """A chunk of documents of log-normal lengths, 600 tokens on average."""
    random = np.random.default_rng(chunk)
    lengths = random.lognormal(6.0, 1.0, 2 * CHUNK).astype(int)
    lengths = lengths[(lengths > 1) & (lengths <= ROW)][:CHUNK]
    return [random.integers(0, VOCABULARY, length, dtype=np.int32) for length in lengths]


class Ours:
    """The product's stream of its token form: whole documents, packed, checksums proved, with what is trained."""

    def __init__(self, bucket: str, chunks: int, folder: Path) -> None:
        from finetune_trainer.data.containers import Container
        from finetune_trainer.data.index import DatasetIndex, FileIndex, SourceIndex
        from finetune_trainer.spec.data import Format
        from finetune_trainer.store import open_store
        from small_data import make_tokenizer

        self._chunks = chunks
        self._facts = {"chunks": chunks}
        self._store = open_store(f"s3://{bucket}/ours")
        file = FileIndex(
            key="a.jsonl",
            size=1,
            version="1",
            container=Container.JSONL,
            digest="",
            records=[CHUNK] * chunks,
            sizes=[ROW * CHUNK] * chunks,
            crc64=[0] * chunks,
        )
        source = SourceIndex(
            uri="",
            root="file:///nowhere",
            format=Format.TEXT,
            conversations=False,
            columns={},
            weight=1.0,
            files=(file,),
        )
        self._index = DatasetIndex(sources=(source,))
        self._tokenizer = make_tokenizer()
        gc.freeze()  # as every rank does (launch/rank.py)

    def prepare(self) -> None:
        """Publish the form."""
        from finetune_trainer.data.encode import Document
        from finetune_trainer.data.overlong import Fitted
        from finetune_trainer.data.tokens.find import form_key
        from finetune_trainer.data.tokens.write import publish

        facts = self._facts
        pages = ([Fitted((Document(ids, ids),)) for ids in documents(chunk)] for chunk in range(self._chunks))
        publish(self._store, form_key(facts), facts, pages, np.dtype("<u2"))

    def batches(self, number: int) -> Iterator[int]:
        """Packed rows of at most `ROW` tokens."""
        from finetune_trainer.data import DataSettings

        settings = DataSettings(max_length=ROW, global_batch_size=BATCH, micro_batch_size=BATCH, seed=number, epochs=1)
        for batch in self.stream(settings).batches():
            yield batch.tokens

    def stream(self, settings: DataSettings, rank: int = 0, ranks: int = 1, folder: Path | None = None) -> TrainStream:
        """The stream of a rank, which shares what it reads in `folder`, if there is one."""
        from finetune_trainer.data import UNSHARED, Keeping, NodeCache, TrainStream, find_form, form_key, used_pages

        form = find_form(self._store, form_key(self._facts))
        assert form is not None
        pages = UNSHARED
        if folder is not None:
            keeping = Keeping(used_pages(self._index, {0: form}), 1 << 40)
            pages = NodeCache(folder, keeping, rank, ranks).reader("train")
        return TrainStream(self._index, settings, self._tokenizer, rank, ranks, forms={0: form}, pages=pages)


class OursByPages(Ours):
    """The same as for a form that does not fit into memory."""

    def __init__(self, bucket: str, chunks: int, folder: Path) -> None:
        from finetune_trainer.data.tokens.read import TokenReader

        super().__init__(bucket, chunks, folder)
        TokenReader.__init__.__defaults__ = (0,)


class LitData:
    """LitData's documents laid end to end and cut into blocks of `ROW` tokens; it checks nothing that it reads."""

    workers = 0

    def __init__(self, bucket: str, chunks: int, folder: Path) -> None:
        downloader: Any = import_module("litdata.streaming.downloader")
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # it has no setting for a server without TLS
        self._library: Any = import_module("litdata")
        self._items: Any = import_module("litdata.streaming.item_loader")
        self._bucket = bucket
        self._chunks = chunks
        self._folder = folder

    def prepare(self) -> None:
        """Write its chunks, of its default size, and upload them."""

        from finetune_trainer.store import open_store

        written = self._folder / "written"
        inputs = list(range(self._chunks))
        loader = self._items.TokensLoader()
        self._library.optimize(tensors, inputs, str(written), num_workers=1, chunk_bytes="64MB", item_loader=loader)
        store = open_store(f"s3://{self._bucket}/{self._place}")
        for file in sorted(written.iterdir()):
            store.put(file.name, file.read_bytes())

    def batches(self, number: int) -> Iterator[int]:
        """Blocks of `ROW` tokens, from an empty cache."""
        cache = self._folder / f"cache-{number}"
        dataset = self._library.StreamingDataset(
            f"s3://{self._bucket}/{self._place}",
            cache_dir=str(cache),
            item_loader=self._items.TokensLoader(block_size=ROW),
            shuffle=True,
            seed=number,
        )
        for batch in self._library.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=self.workers):
            yield batch.numel()
        shutil.rmtree(cache, ignore_errors=True)

    @property
    def _place(self) -> str:
        return f"litdata-{self.workers}"


class LitDataWorkers(LitData):
    """The same with two worker processes, one for each core of the machine of the bench."""

    workers = 2


def tensors(chunk: int) -> Iterator[Any]:
    """The documents of a chunk as LitData takes them."""
    import torch

    for ids in documents(chunk):
        yield torch.from_numpy(ids.astype(np.uint16))


PEERS: dict[str, Callable[[str, int, Path], Peer]] = {
    "ours": Ours,
    "ours-by-pages": OursByPages,
    "litdata": LitData,
    "litdata-2-workers": LitDataWorkers,
}


def read(peer: Peer, number: int) -> dict[str, float]:
    """One epoch, and what it cost."""
    started, cpu = time.monotonic(), processor_seconds()
    tokens = sum(peer.batches(number))
    seconds = time.monotonic() - started
    return {"tokens": tokens, "seconds": seconds, "cpu": processor_seconds() - cpu}


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Serve until stdin ends; what libraries print goes to stderr."""
    name, bucket, chunks, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    answers = sys.stdout
    with redirect_stdout(sys.stderr):
        peer = PEERS[name](bucket, chunks, folder)
        for number, order in enumerate(sys.stdin):
            if order.strip() == "prepare":
                peer.prepare()
                answer: dict[str, float] = {}
            else:
                answer = read(peer, number)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
