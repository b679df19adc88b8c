"""The job's data on this rank: training stream, held-out sets, and where records that cannot be used are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from finetune_trainer.context import RunContext
from finetune_trainer.data import (
    DatasetIndex,
    DataSettings,
    EvalSet,
    IndexProgress,
    TrainStream,
    job_indices,
)
from finetune_trainer.engine.collectives import ControlGroup, Tell
from finetune_trainer.quarantine import QuarantineFile
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.store import RunLog


@dataclass(frozen=True)
class Dataset:
    """What the loop reads; `id` names the training data in checkpoints."""

    index: DatasetIndex
    stream: TrainStream
    held_out: Mapping[str, EvalSet]
    bad: QuarantineFile | None
    """Rank 0's."""

    @property
    def id(self) -> str:
        """The index's id: a hash of content, formats and weights."""
        return self.index.id


def open_dataset(
    job: FineTuneJob,
    context: RunContext,
    control: ControlGroup,
    log: RunLog,
    tokenizer: PreTrainedTokenizerFast,
    micro_batch_size: int,
) -> Dataset:
    """Index the sources on rank 0, or read the cached index, and open the stream on every rank; collective."""
    settings = DataSettings.of(job.spec, micro_batch_size)
    indices = control.agree_long(lambda tell: list(_index_all(job, tell)) if control.is_main else [], context)[0]
    train, *held_out = indices
    bad = QuarantineFile(log.journal.store, log.journal.run_id) if control.is_main else None
    place = (control.rank, control.world_size)
    stream = TrainStream(train, settings, tokenizer, *place, on_bad=bad)
    named = zip(job.spec.data.eval, held_out, strict=True)
    sets = {
        source.name: EvalSet(source.name, index, settings, tokenizer, *place, on_bad=bad) for source, index in named
    }
    return Dataset(train, stream, sets, bad)


def _index_all(job: FineTuneJob, tell: Tell) -> Iterator[DatasetIndex]:
    def progress(state: IndexProgress) -> None:
        tell(
            {
                "kind": "phase",
                "name": "indexing the data",
                "detail": f"{state.records} records in {state.files} of {state.total_files} files",
                "done": state.size,
                "total": state.total_size,
                "unit": "bytes",
            }
        )

    return job_indices(job.spec, progress)
