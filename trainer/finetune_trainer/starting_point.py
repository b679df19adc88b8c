"""The checkpoint of another run whose weights this run begins with: looked up once, and kept in this run's log.

The other run is only read. Knows no tensors: `finetune_trainer.begin` loads what is found here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.spec import (
    WHICH_WORDS,
    FineTuneJob,
    ObjectiveType,
    ProblemType,
    StartCheckpoint,
    identity_fields,
    run_id,
)
from finetune_trainer.store import Checkpoint, ObjectRef, RunLog, find_checkpoint, listed, open_store, runs_at

FIELD = "spec.model.checkpoint"
STARTED_FROM = "startedFrom"
"""Name of the record in the claim that begins a run's log."""

METHOD = "spec.method."
FREE = (
    "spec.method.full",
    *(f"spec.method.lora.{name}" for name in ("dropout", "learningRateRatio", "modulesToSave", "targetModules")),
)
"""What the method says of how weights are trained, and what is compared weight by weight."""
LABELS = "spec.objective.classification.labels"
CLASSIFICATION = str(ObjectiveType.CLASSIFICATION)
TYPE = "spec.objective.type"
PROBLEM = "spec.objective.classification.problem"
NO_HEAD = "no score head"
TOKENS = "spec.model.addedTokens"
OTHER_METHOD = "export that run and write the folder of the exported model as spec.model.uri, without a checkpoint"


class StartingPoint(BaseModel):
    """One checkpoint of one run: the run's folder, the number of its log entry, its step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str
    seq: int
    step: int

    def __str__(self) -> str:
        return f"step {self.step} of {self.uri} (log entry {self.seq})"

    def run(self) -> RunLog:
        """The log that the checkpoint is in."""
        root, _, name = self.uri.rpartition("/")
        return RunLog(open_store(root), name)

    def entry(self) -> Checkpoint:
        """Its log entry. DataError when the run has given it up, or set it aside, since it was chosen."""
        with reading():
            log = self.run()
            if self.seq in log.history().good:
                return log.journal.checkpoint(self.seq)
        raise DataError(
            f"{FIELD}: {self}, with which this run begins, is not kept there any more, or was found damaged: choose "
            "another one, under another metadata.name; `finetune checkpoints pin` keeps one for ever"
        )

    def damaged(self, problem: str) -> DataError:
        """The error for a checkpoint of which an object is not what was committed."""
        return DataError(
            f"{FIELD}: {self} cannot be used: {problem}; nothing was changed there: write another one of its "
            "checkpoints as `which`, or restore the object"
        )


def starting_point(job: FineTuneJob, log: RunLog) -> StartingPoint | None:
    """The checkpoint that the run in `log` began with, or begins with now; None without `spec.model.checkpoint`.

    A run that has begun keeps to what its first claim says, whatever has been committed at the address since.
    """
    start = job.spec.model.checkpoint
    if start is None:
        return None
    return recorded(log) if log.history().newest else look_up(start)


def look_up(start: StartCheckpoint) -> StartingPoint:
    """What the manifest names, at this moment. DataError when there is no such run or checkpoint."""
    with reading():
        logs = runs_at(start.uri)
        if len(logs) != 1:
            raise DataError(f"{FIELD}.uri: {_no_run(start.uri, logs)}")
        log, good = logs[0], logs[0].history().good
        if (entry := find_checkpoint(log, start.which, good)) is None:
            there = f"of {log.uri} can be used: write {WHICH_WORDS}; there are {listed(log, good)}"
            raise DataError(f"{FIELD}.which: no checkpoint {start.which} {there}")
    return StartingPoint(uri=log.uri, seq=entry.seq, step=entry.step)


def record(start: StartingPoint | None) -> dict[str, Any]:
    """What the claim of a run says of it."""
    return {} if start is None else {STARTED_FROM: start.model_dump()}


def recorded(log: RunLog) -> StartingPoint:
    """What the first claim of a run's log says. StorageError when it says nothing."""
    try:
        return StartingPoint.model_validate(log.journal.first().info.get(STARTED_FROM))
    except ValidationError as error:
        told = f"the first log entry of {log.uri} does not say with which checkpoint the run began"
        raise StorageError(f"{FIELD}: {told}: start a new run by another metadata.name") from error


def check_start(job: FineTuneJob) -> None:
    """Whether the run can begin with what it names: it can be read, fits the method, and no object of it is missing.

    A run that has commits of its own goes on from these and is not checked. Raises DataError, StorageError.
    """
    log = RunLog(open_store(job.spec.checkpoint.uri), run_id(job))
    if job.spec.model.checkpoint is None or log.history().good:
        return
    start = starting_point(job, log)
    assert start is not None
    entry = start.entry()
    with reading():
        source = start.run()
        theirs, mine = source.journal.identity().fields, identity_fields(job)
        _check_head(start, theirs, mine)
        _check_method(start, theirs, mine)
        labels: Any = entry.body.get("labels")
        _check_order(start, theirs, mine, labels)
        if problem := _missing(source, entry.objects):
            raise start.damaged(problem)


@contextmanager
def reading() -> Iterator[None]:
    """Name the field in front of what the other run's store says, and the rights that reading takes."""
    try:
        yield
    except StorageError as error:
        rights = "this job only reads there (s3:GetObject, s3:ListBucket)"
        raise type(error)(f"{FIELD}.uri: {error}; {rights}") from error


def _no_run(uri: str, logs: list[RunLog]) -> str:
    if logs:
        return f"there are several runs below {uri}: write one of {', '.join(log.uri for log in logs)}"
    return f"there is no run at {uri}: write <checkpoint.uri>/<run id> of that job, as in status.checkpoint.latest"


def _check_head(start: StartingPoint, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """A checkpoint has what its objective trains: a head of scores, and for what, or none."""
    there, here = _head(theirs), _head(mine)
    if there == here:
        return
    if there == NO_HEAD:
        remedy = (
            "begin with what that run exports, its adapter as spec.model.adapter or its merged or full model as "
            "spec.model.uri, without spec.model.checkpoint: the head is new then"
        )
    else:
        remedy = "leave spec.model.checkpoint out, and begin with the language model at spec.model.uri"
    raise DataError(
        f"{TYPE}: is {mine[TYPE]}, which trains {here}, and {start} was trained with {theirs[TYPE]} and has {there}: "
        f"{remedy}"
    )


def _head(fields: Mapping[str, Any]) -> str:
    kind = fields.get(TYPE)
    if kind == ObjectiveType.CLASSIFICATION and fields.get(PROBLEM, ProblemType.SINGLE_LABEL) != ProblemType.REGRESSION:
        return "a score for each label"
    return "a head of one score" if kind in (ObjectiveType.CLASSIFICATION, ObjectiveType.REWARD) else NO_HEAD


def _check_method(start: StartingPoint, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    compared = [path for path in sorted(theirs.keys() | mine.keys(), key=_type_first) if path.startswith(METHOD)]
    for path in compared:
        if theirs.get(path) != mine.get(path) and not path.startswith(FREE):
            instead = f", or {OTHER_METHOD}" if path == f"{METHOD}type" else ""
            then = theirs.get(path, "its default")
            raise DataError(
                f"{path}: is {mine.get(path, 'its default')}, and {start} was trained with {then}: write that{instead}"
            )


def _check_order(
    start: StartingPoint, theirs: Mapping[str, Any], mine: Mapping[str, Any], labels: Sequence[str] | None
) -> None:
    """Of labels and added tokens a checkpoint's weights are in their order.

    `labels`: what its entry says of them; older ones say nothing. Those of the data are compared when these are read.
    """
    for field in (LABELS, TOKENS):
        there, here = ([value for path, value in fields.items() if path.startswith(field)] for fields in (theirs, mine))
        compared = bool(here and there) if field == TOKENS else {theirs.get(TYPE), mine.get(TYPE)} == {CLASSIFICATION}
        if field == LABELS and labels is not None:
            compared, there = compared and bool(here), list(labels)
        if not compared or here == there:
            continue
        then = f"with {', '.join(there)}" if there else "with those of its data, so leave them out here"
        raise DataError(f"{field}: {start} was trained {then}: write the same ones in the same order")


def _type_first(path: str) -> tuple[bool, str]:
    return path != f"{METHOD}type", path


def _missing(log: RunLog, objects: tuple[ObjectRef, ...]) -> str:
    """What is wrong with the first object that is not there in its size; "" if all are. Reads none of them."""
    store = log.journal.store
    folders = sorted({ref.key.rpartition("/")[0] for ref in objects})
    sizes = {info.key: info.size for folder in folders for info in store.list(f"{folder}/")}
    for ref in objects:
        if (size := sizes.get(ref.key)) != ref.size:
            found = "is missing" if size is None else f"has {size} bytes, not {ref.size}"
            return f"{store.uri}/{ref.key} {found}"
    return ""
