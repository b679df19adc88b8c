"""The first pass over the sources: cut every file into chunks, find its format, refuse what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Literal

from pydantic import ValidationError

from finetune_trainer.data.containers import Container
from finetune_trainer.data.formats import ANSWERS, CHAT_FORMATS, REQUIRED, detect_format
from finetune_trainer.data.index import INDEX_VERSION, DatasetIndex, SourceIndex
from finetune_trainer.data.scan import Scan, scan_file
from finetune_trainer.data.sources import ListedSource, list_sources, listing_digest
from finetune_trainer.errors import DataError
from finetune_trainer.spec.data import Format, Source, TrainSource
from finetune_trainer.spec.job import JobSpec
from finetune_trainer.spec.notyet import one_of
from finetune_trainer.spec.objective import OBJECTIVES, ObjectiveType
from finetune_trainer.spec.rules import FORMATS
from finetune_trainer.store import ObjectNotFound, ObjectStore, crc64nvme, open_store

INDEX_FOLDER = "index"
"""Beside the runs of a checkpoint location, because an index depends on the files alone."""

# Decompression and reading release the interpreter lock.
THREADS = 4


@dataclass(frozen=True)
class IndexProgress:
    """How far the first pass is: files and bytes (as stored) done and to do, and records of the files done."""

    files: int
    total_files: int
    size: int
    total_size: int
    records: int


def job_indices(spec: JobSpec, progress: Callable[[IndexProgress], None] | None = None) -> Iterator[DatasetIndex]:
    """The index of a job's training data, then that of each held-out set, kept beside the job's checkpoints.

    Raises DataError as `list_sources`, `build_index` and `check_formats` do.
    """
    cache = open_store(f"{spec.checkpoint.uri}/{INDEX_FOLDER}")
    train, held_out = _listed(spec, "train"), _listed(spec, "eval")
    for listed in (train, *((item,) for item in held_out)):
        index = cached_index(listed, cache, progress)
        check_formats(listed, index, spec.objective.type)
        yield index


def kept_train_index(spec: JobSpec) -> DatasetIndex | None:
    """The index of a job's training data where it is kept beside its checkpoints; nothing of the data is read."""
    cache = open_store(f"{spec.checkpoint.uri}/{INDEX_FOLDER}")
    return _kept_index(cache, _index_key(_listed(spec, "train")))


def _listed(spec: JobSpec, part: Literal["train", "eval"]) -> tuple[ListedSource, ...]:
    """The sources of `spec.data`, with the format that the objective takes for `Auto` where no column tells it."""
    auto = OBJECTIVES[spec.objective.type].auto
    sources: Sequence[Source] = getattr(spec.data, part)
    named = [
        one.model_copy(update={"format": auto}) if auto is not None and one.format is Format.AUTO else one
        for one in sources
    ]
    return list_sources(named, f"spec.data.{part}")


def _index_key(listed: Sequence[ListedSource]) -> str:
    return f"{listing_digest(listed)}.v{INDEX_VERSION}.json"


def cached_index(
    listed: Sequence[ListedSource], cache: ObjectStore, progress: Callable[[IndexProgress], None] | None = None
) -> DatasetIndex:
    """`build_index`, unless `cache` holds the index of the same files under `<digest of the listing>.json`."""
    key = _index_key(listed)
    index = _kept_index(cache, key)
    if index is None:
        index = build_index(listed, progress)
    if index.digests is None:
        index = index.digested()
        cache.put(key, index.model_dump_json().encode())
    return index


def _kept_index(cache: ObjectStore, key: str) -> DatasetIndex | None:
    """The index under `key`; None for one that cannot be read, or is not what its store keeps a CRC64NVME of."""
    try:
        data = cache.get(key)
        return DatasetIndex.model_validate_json(data) if cache.checksum(key) in (None, crc64nvme(data)) else None
    except (ObjectNotFound, ValidationError):
        return None


def build_index(
    listed: Sequence[ListedSource], progress: Callable[[IndexProgress], None] | None = None
) -> DatasetIndex:
    """Read every file once and return where its records are; `progress` is called while and after each is read.

    Raises DataError for a file that is empty, damaged or not what its name says, and for sources whose files disagree
    on the format.
    """
    tasks = [(s, f) for s, item in enumerate(listed) for f in range(len(item.files))]
    scanned: dict[tuple[int, int], Scan] = {}
    meter = _Meter(listed, progress)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="data-index") as pool:
        futures = {
            pool.submit(scan_file, listed[s].store, listed[s].files[f], partial(meter.at, (s, f))): (s, f)
            for s, f in tasks
        }
        try:
            for future in as_completed(futures):
                scanned[futures[future]] = scan = future.result()
                meter.at(futures[future], scan.file.size, files=1, records=sum(scan.file.records))
        finally:
            pool.shutdown(cancel_futures=True)
    return DatasetIndex(
        sources=tuple(
            _source_index(item, [scanned[s, f] for f in range(len(item.files))]) for s, item in enumerate(listed)
        )
    )


def check_formats(listed: Sequence[ListedSource], index: DatasetIndex, objective: ObjectiveType) -> None:
    """Refuse formats that `Auto` found and that the objective does not take (DataError), as named ones are refused.

    Not part of the index: that depends on the files alone, and is cached.
    """
    for item, source in zip(listed, index.sources, strict=True):
        if objective not in FORMATS or source.format in FORMATS[objective]:
            continue
        named = [format_ for format_ in FORMATS[objective] if format_ is not Format.AUTO]
        others = [other for other, formats in FORMATS.items() if source.format in formats]
        raise DataError(
            f"{item.path}.format: Auto finds {source.format} records in {source.uri}, which do not suit objective "
            f"{objective}: write {one_of(named)} if they can be read so, or spec.objective.type: {one_of(others)}"
        )


def _source_index(item: ListedSource, scans: Sequence[Scan]) -> SourceIndex:
    _check_containers(item, scans)
    format_ = _agreed_format(item, scans)
    return SourceIndex(
        uri=item.source.uri,
        root=item.store.uri,
        format=format_,
        conversations=_holds_conversations(item, format_, scans),
        columns=dict(item.source.columns),
        weight=item.source.weight if isinstance(item.source, TrainSource) else 1.0,
        files=tuple(scan.file for scan in scans),
    )


def _check_containers(item: ListedSource, scans: Sequence[Scan]) -> None:
    tables = [scan for scan in scans if scan.file.container is Container.PARQUET]
    lines = [scan for scan in scans if scan.file.container is not Container.PARQUET]
    if tables and lines:
        raise DataError(
            f"{item.path}.uri: {item.source.uri!r} names Parquet ({tables[0].name}) and JSON lines ({lines[0].name}): "
            "write one source for each"
        )


def _agreed_format(item: ListedSource, scans: Sequence[Scan]) -> Format:
    if item.source.format is not Format.AUTO:
        for scan in scans:
            _check_columns(item, scan)
        return item.source.format
    found = [(scan, _detected(item, scan)) for scan in scans]
    first_scan, first = found[0]
    for scan, format_ in found:
        if format_ is not first:
            raise DataError(
                f"{item.path}.uri: {first_scan.name} holds {first} records and {scan.name} holds {format_} ones: "
                "write one source for each"
            )
    return first


def _holds_conversations(item: ListedSource, format_: Format, scans: Sequence[Scan]) -> bool:
    answer = ANSWERS.get(format_, "")
    of_messages = any(item.source.columns.get(answer, answer) in scan.lists for scan in scans)
    return format_ in CHAT_FORMATS or of_messages


def _check_columns(item: ListedSource, scan: Scan) -> None:
    """A Parquet file without a column that the named format needs has no good record at all."""
    if scan.file.container is not Container.PARQUET:
        return
    needed = [item.source.columns.get(name, name) for name in REQUIRED[item.source.format]]
    missing = [name for name in needed if name not in scan.names[0]]
    if missing:
        raise DataError(
            f"{item.path}: {scan.name} has no column {missing[0]!r}, which the format {item.source.format} needs, only "
            f"{', '.join(sorted(scan.names[0]))}: name yours in {item.path}.columns, or another {item.path}.format"
        )


def _detected(item: ListedSource, scan: Scan) -> Format:
    if not scan.names:
        raise DataError(
            f"{scan.name}: none of the first records can be read ({scan.problem}): write one JSON object per line, "
            "in UTF-8"
        )
    formats = [detect_format(names, item.source.columns) for names in scan.names]
    if None in formats:
        names = ", ".join(sorted(scan.names[formats.index(None)]))
        raise DataError(
            f"{item.path}.format: {scan.name} has records with the columns {names}, which fit no known format: "
            f"write the format, and name your columns in {item.path}.columns"
        )
    if len(set(formats)) > 1:
        found = " and ".join(sorted({str(format_) for format_ in formats}))
        raise DataError(
            f"{scan.name} mixes formats: its first records are {found}: write one file for each, "
            f" or the one that is meant as {item.path}.format"
        )
    return next(format_ for format_ in formats if format_ is not None)


class _Meter:
    """Adds up what the threads have read, and tells of it."""

    def __init__(self, listed: Sequence[ListedSource], progress: Callable[[IndexProgress], None] | None) -> None:
        sizes = [file.size for item in listed for file in item.files]
        self._state = IndexProgress(files=0, total_files=len(sizes), size=0, total_size=sum(sizes), records=0)
        self._progress = progress
        self._places: dict[tuple[int, int], int] = {}
        self._lock = Lock()

    def at(self, file: tuple[int, int], place: int, files: int = 0, records: int = 0) -> None:
        """Note the place reached in a file, and at its end that it is one more, with so many records."""
        with self._lock:
            state = self._state
            self._state = replace(
                state,
                files=state.files + files,
                size=state.size + place - self._places.get(file, 0),
                records=state.records + records,
            )
            self._places[file] = place
            if self._progress is not None:
                self._progress(self._state)
