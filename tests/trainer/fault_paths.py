"""What the product does with S3, each as a small thing that is done under faults and then judged by the bytes."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from fnmatch import fnmatchcase
from pathlib import Path

from fault_modes import Target
from finetune_trainer.data import TrainStream
from finetune_trainer.errors import FinetuneError
from finetune_trainer.export.publish import MANIFEST, Exported, Manifest, claim, find_manifest, seal, upload
from finetune_trainer.store import Checkpoint, RunLog, Writer, find_problems, open_store, read_verified
from s3_faults.server import FaultyS3
from small_data import conversation, index_of, make_tokenizer, settings, source, write_records
from small_run import ME
from token_forms import publish_source

RIGHT = "right"
TOLD = "told"
SILENT = "SILENT"

SHARDS = {f"rank{rank}/state": random.Random(rank).randbytes(100_000) for rank in range(2)}
OLDER = {name: data[::-1] for name, data in SHARDS.items()}
RUN = "team.job"


class Scenario(ABC):
    """One use of S3. `key` is the glob of the objects whose requests break, which `writes` them or reads them; the
    first `skip` pass."""

    key = "*"
    writes = False
    skip = 0

    def __init__(self, server: FaultyS3, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.bucket = server.make_bucket()
        self.uri = f"s3://{self.bucket}/at"
        self.store = open_store(self.uri)

    @property
    def target(self) -> Target:
        return Target(self.server, self.bucket, self.key, self.writes, self.skip)

    def held(self) -> dict[str, bytes]:
        """What is really in the bucket, by its keys below the store."""
        found = self.server.bucket(self.bucket).listed()
        return {key.removeprefix("at/"): stored.data for key, stored in found.items()}

    def named(self, error: Exception) -> bool:
        """Whether an error names one of the objects whose requests break."""
        words = (word.rstrip(":,;").partition("#")[0] for word in str(error).split())
        keys = (word.removeprefix(f"s3://{self.bucket}/") for word in words if word.startswith(f"s3://{self.bucket}/"))
        return any(fnmatchcase(key, self.key) for key in keys)

    @abstractmethod
    def act(self) -> str:
        """Do it: RIGHT or TOLD (damage that is named), SILENT for wrong bytes. Raises what the product raises."""

    @abstractmethod
    def left(self) -> str:
        """What is there once the faults are over, as a reader finds it: RIGHT, TOLD or SILENT."""


class Save(Scenario):
    """A second checkpoint, over a first one that is whole."""

    key = "*/data/*"
    writes = True

    def __init__(self, server: FaultyS3, folder: Path) -> None:
        super().__init__(server, folder)
        self.writer = RunLog(self.store, RUN).claim(ME)
        self.first = self.commit(self.writer, 1, OLDER)

    def commit(self, writer: Writer, step: int, shards: dict[str, bytes]) -> Checkpoint:
        folder = writer.new_checkpoint(step)
        refs = [writer.write(folder, name, data) for name, data in shards.items()]
        return writer.commit(step, None, refs, {})

    def act(self) -> str:
        self.commit(RunLog(self.store, RUN).writer(1, self.writer.id), 2, SHARDS)
        return RIGHT

    def left(self) -> str:
        """The second checkpoint is whole, or is not there, or is found damaged with the first one below it."""
        found = RunLog(self.store, RUN).latest_good()
        assert found.entry is not None
        told = all(any(key in text for key in self.damaged()) for one in found.damaged for text in one.problems)
        wanted = SHARDS if found.entry.step == 2 else OLDER
        bytes_ = {ref.key.split("/", 3)[3]: self.held()[ref.key] for ref in found.entry.objects}
        if bytes_ != wanted or not told:
            return SILENT
        committed = any('"step":2' in data.decode() for key, data in self.held().items() if "/log/" in key)
        return RIGHT if found.entry.step == 2 or not committed else TOLD

    def damaged(self) -> list[str]:
        """Keys whose bytes are none that were ever written."""
        good = [*SHARDS.values(), *OLDER.values()]
        return [key for key, data in self.held().items() if "/data/" in key and data not in good]


class SaveEntry(Save):
    """The same, where what makes it a checkpoint is written."""

    key = "*/log/*"

    def left(self) -> str:
        """A damaged entry is named, by whoever reads the log."""
        try:
            return super().left()
        except FinetuneError as error:
            newest = max(key for key in self.held() if "/log/" in key)
            return TOLD if newest in str(error) else SILENT


class Load(Save):
    """The newest good checkpoint, verified."""

    writes = False

    def __init__(self, server: FaultyS3, folder: Path) -> None:
        super().__init__(server, folder)
        self.second = self.commit(self.writer, 2, SHARDS)
        self.key = f"*{self.second.objects[0].key}"

    def act(self) -> str:
        found = RunLog(self.store, RUN).latest_good()
        assert found.entry is not None
        read = [read_verified(self.store, ref) for ref in found.entry.objects]
        if found.entry.step == 2:
            return RIGHT if read == list(SHARDS.values()) and not found.damaged else SILENT
        named = all(self.second.objects[0].key in text for one in found.damaged for text in one.problems)
        return TOLD if read == list(OLDER.values()) and found.damaged and named else SILENT

    def left(self) -> str:
        return RIGHT


class LoadEntry(Load):
    """The same, where the log is read that says which it is."""

    def __init__(self, server: FaultyS3, folder: Path) -> None:
        super().__init__(server, folder)
        self.key = f"*/log/{self.second.seq:012d}.json"


class Stream(Scenario):
    """An epoch of raw records, indexed before the faults."""

    key = "*.jsonl"

    def __init__(self, server: FaultyS3, folder: Path) -> None:
        super().__init__(server, folder)
        path = write_records(folder / "a.jsonl", [conversation(number) for number in range(60)])
        upload_args = {"ChecksumAlgorithm": "CRC64NVME"}  # as the AWS CLI and the console do
        server.client().upload_file(str(path), self.bucket, "at/a.jsonl", ExtraArgs=upload_args)
        self.expected = self.rows(TrainStream(index_of(source(path)), settings(), make_tokenizer()))
        self.source = source(f"{self.uri}/a.jsonl")
        self.index = index_of(self.source)

    def rows(self, stream: TrainStream) -> list[list[int]]:
        return [row.input_ids.tolist() for batch in stream.batches() for row in batch.rows]

    def act(self) -> str:
        found = self.rows(TrainStream(self.index, settings(), make_tokenizer()))
        return RIGHT if found == self.expected else SILENT

    def left(self) -> str:
        return RIGHT


class Index(Stream):
    """The first pass over raw records, and an epoch of them."""

    skip = 1  # what kind of file it is

    def act(self) -> str:
        self.index = index_of(self.source)
        return super().act()


class Tokens(Stream):
    """An epoch of records whose tokens are stored."""

    key = "*.tokens"

    def __init__(self, server: FaultyS3, folder: Path) -> None:
        super().__init__(server, folder)
        self.form = publish_source(open_store(f"{self.uri}/tokens"), self.index, 0, settings())

    def act(self) -> str:
        found = self.rows(TrainStream(self.index, settings(), make_tokenizer(), forms={0: self.form}))
        return RIGHT if found == self.expected else SILENT


EXPORT = Exported(run_id=RUN, identity="a" * 64, step=2, seq=3, writer="b" * 16, format="Full")
FILES = {
    "config.json": b'{"model_type": "small", "hidden_size": 8, "layers": 2}',
    "model.safetensors": SHARDS["rank0/state"],
}


class Export(Scenario):
    """The files of a model, and the manifest that completes them."""

    key = "*/model.safetensors"
    writes = True

    def __init__(self, server: FaultyS3, folder: Path) -> None:
        super().__init__(server, folder)
        for name, data in FILES.items():
            (folder / name).write_bytes(data)

    def act(self) -> str:
        if find_manifest(self.store, EXPORT) is not None:  # an earlier start completed it
            return RIGHT
        claim(self.store, EXPORT, list(FILES))
        refs = tuple(upload(self.store, self.folder / name, name) for name in FILES)
        seal(self.store, Manifest(export=EXPORT, files=refs, result={}))
        return RIGHT

    def left(self) -> str:
        """The export is whole, or not complete, or whoever checks it by its manifest finds what is wrong."""
        if MANIFEST not in self.held():
            return RIGHT
        try:
            manifest = find_manifest(self.store, EXPORT)
        except FinetuneError as error:
            return TOLD if self.uri in str(error) else SILENT
        assert manifest is not None
        problems = find_problems(self.store, manifest.files)
        whole = {name: self.held().get(name) for name in FILES} == FILES
        return RIGHT if whole and not problems else TOLD if problems and "model.safetensors" in problems[0] else SILENT


class ExportManifest(Export):
    """The same, where the manifest is written."""

    key = f"*/{MANIFEST}"


SCENARIOS: dict[str, type[Scenario]] = {
    "save": Save,
    "commit": SaveEntry,
    "load": Load,
    "log": LoadEntry,
    "index": Index,
    "stream": Stream,
    "tokens": Tokens,
    "export": Export,
    "manifest": ExportManifest,
}
