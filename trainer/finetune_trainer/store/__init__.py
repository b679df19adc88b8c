"""Objects on `s3://` and `file://`, and the commit log of a run. Reads and writes bytes; knows no torch.

`open_store` and `find_objects` lead to objects, `RunLog` to checkpoints: claim the run, write objects, commit an entry,
find the latest good one, retire old ones. `probe` says beforehand whether a store can hold commits.
"""

from finetune_trainer.store.checksums import crc64_hex, crc64nvme
from finetune_trainer.store.copying import copy_checkpoint
from finetune_trainer.store.entries import Checkpoint, Claim, Entry, Identity, ObjectRef, Pin, Quarantine, Retire
from finetune_trainer.store.find import find_checkpoint, list_runs, listed, runs_at
from finetune_trainer.store.log import Damaged, LatestGood, RunLog
from finetune_trainer.store.objects import ObjectExists, ObjectInfo, ObjectNotFound, ObjectStore, StorageRefused
from finetune_trainer.store.probe import probe
from finetune_trainer.store.s3_errors import StoreUnreachable
from finetune_trainer.store.uri import find_objects, match_objects, open_store, split_uri
from finetune_trainer.store.verify import READS, CorruptObject, find_problems, read_range, read_verified
from finetune_trainer.store.writer import Fenced, Writer

__all__ = [
    "READS",
    "Checkpoint",
    "Claim",
    "CorruptObject",
    "Damaged",
    "Entry",
    "Fenced",
    "Identity",
    "LatestGood",
    "ObjectExists",
    "ObjectInfo",
    "ObjectNotFound",
    "ObjectRef",
    "ObjectStore",
    "Pin",
    "Quarantine",
    "Retire",
    "RunLog",
    "StorageRefused",
    "StoreUnreachable",
    "Writer",
    "copy_checkpoint",
    "crc64_hex",
    "crc64nvme",
    "find_checkpoint",
    "find_objects",
    "find_problems",
    "list_runs",
    "listed",
    "match_objects",
    "open_store",
    "probe",
    "read_range",
    "read_verified",
    "runs_at",
    "split_uri",
]
