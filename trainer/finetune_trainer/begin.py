"""Begin with the weights in a checkpoint of another run: no moment, step count or random state of it is taken over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

from finetune_trainer.commit import Body
from finetune_trainer.data import LabelSet, other_labels
from finetune_trainer.engine.blocks import Span
from finetune_trainer.engine.collectives import ControlGroup, Tell
from finetune_trainer.engine.fragments import refresh_model
from finetune_trainer.engine.load import Source, copy_slices
from finetune_trainer.engine.snapshot import EngineState
from finetune_trainer.errors import DataError
from finetune_trainer.model.fingerprint import ModelIdentity
from finetune_trainer.model.load import full_shape
from finetune_trainer.run import Run
from finetune_trainer.source import CheckpointSource
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.starting_point import LABELS, StartingPoint, reading
from finetune_trainer.store import Checkpoint, CorruptObject, RunLog

T = TypeVar("T")

READING = "reading the checkpoint to start from"
STARTING = "starting from a checkpoint"
MASTER_ONLY = ("master",)
SHOWN = 4  # weights of each kind that a message names


def begin(run: Run) -> None:
    """Put the weights of `spec.model.checkpoint` into the engine, if the manifest has one; collective.

    Every object is verified as it is read, and nothing is written where it lies. DataError naming the damaged object,
    or what of the base model or the trained weights does not fit.
    """
    start = run.start
    if start is None:
        return
    entry = run.control.agree(start.entry)[run.control.rank]
    body = Body.model_validate(entry.body)
    check_base(run.job, start, entry, run.model)
    check_trained(run.job, start, body.engine, run.engine.module)
    run.control.agree_long(lambda tell: _copy_weights(run, start, entry, body.engine, tell), run.context)
    refresh_model(run.engine)
    other = "; its tokenizer or chat template was another one" if body.model.tokenizer != run.model.tokenizer else ""
    run.report_phase(STARTING, f"{start}{other}")


def check_early(
    job: FineTuneJob, control: ControlGroup, log: RunLog, start: StartingPoint | None, model: ModelIdentity
) -> None:
    """Compare the base model before data and weights are read; a run with commits goes on from these. Collective."""

    def check() -> None:
        if start is not None and control.is_main and not log.history().good:
            check_base(job, start, start.entry(), model)

    control.agree(check)


def check_labels(control: ControlGroup, log: RunLog, start: StartingPoint | None, labels: LabelSet | None) -> None:
    """Compare a classifier's labels, once its data are read, with those that the scores of the checkpoint stand for.

    DataError naming both where they differ, or stand in another order. As `check_early`.
    """

    def check() -> None:
        if start is None or labels is None or not control.is_main or log.history().good:
            return
        then = Body.model_validate(start.entry().body).labels
        if then is not None and (found := other_labels(then, labels.names)):
            raise DataError(
                f"{LABELS}: those of this job are {found}, and {start} was trained with {', '.join(then)}: train on "
                "records with the same labels, named here in that order, or begin with a new head, without "
                "spec.model.checkpoint"
            )

    control.agree(check)


def check_base(job: FineTuneJob, start: StartingPoint, entry: Checkpoint, now: ModelIdentity) -> None:
    """DataError unless the model at `spec.model.uri` is the one that was trained: a checkpoint holds no frozen weight
    and no configuration."""
    then = Body.model_validate(entry.body).model
    if then.weights == now.weights:
        return
    moved = f" (commit {then.revision} then, {now.revision} now)" if then.revision != now.revision else ""
    with reading():
        theirs = start.run().journal.identity().fields.get("spec.model.uri", "the model of that run")
    raise DataError(
        f"spec.model.uri: the configuration or weights of {job.spec.model.uri} are not those that {start} was trained "
        f"on{moved}: write {theirs} as it was then; an hf:// address with a commit never changes"
    )


def check_trained(job: FineTuneJob, start: StartingPoint, state: EngineState, module: Any) -> None:
    """DataError unless the checkpoint holds exactly the weights that this job trains, in their shapes."""
    here = {name: tuple(full_shape(one)) for name, one in module.named_parameters() if one.requires_grad}
    there = {name: held.shape for name, held in state.tensors.items()}
    if problems := list(_differences(here, there)):
        field = "spec.method.lora.targetModules" if job.spec.method.lora is not None else "spec.method"
        raise DataError(f"{field}: {start} does not fit: {'; '.join(problems)}: write the method of that run")


def _differences(here: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    if lacking := sorted(here.keys() - there.keys()):
        yield f"it does not hold {_some(lacking)}"
    if extra := sorted(there.keys() - here.keys()):
        yield f"it holds {_some(extra)}, which this job does not train"
    if changed := sorted(name for name in here.keys() & there.keys() if here[name] != there[name]):
        yield f"{changed[0]} is {list(there[changed[0]])} there and {list(here[changed[0]])} here"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _copy_weights(run: Run, start: StartingPoint, entry: Checkpoint, state: EngineState, tell: Tell) -> None:
    source = _TellingSource(CheckpointSource(start.run().journal.store, entry), str(start), tell)
    with reading():
        try:
            copy_slices(run.engine, state, run.control.rank, run.control.world_size, source, MASTER_ONLY)
        except CorruptObject as error:
            raise start.damaged(str(error)) from error


class _TellingSource:
    """An engine.load.Source that tells of each read."""

    def __init__(self, source: Source, detail: str, tell: Tell) -> None:
        self._source, self._detail, self._tell = source, detail, tell
        self._done = count(1)

    def whole(self, name: str) -> bytes:
        """See Source."""
        return self._told(self._source.whole(name))

    def part(self, name: str, span: Span) -> memoryview:
        """See Source."""
        return self._told(self._source.part(name, span))

    def _told(self, found: T) -> T:
        progress = {"done": next(self._done), "unit": "reads"}
        self._tell({"kind": "phase", "name": READING, "detail": self._detail, **progress})
        return found
