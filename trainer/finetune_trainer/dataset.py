"""The job's data on this rank: training stream, held-out sets, and where records that cannot be used are kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedTokenizerFast

from finetune_trainer.context import RunContext
from finetune_trainer.data import (
    UNSHARED,
    DatasetIndex,
    DataSettings,
    EvalSet,
    IndexProgress,
    Keeping,
    LabelSet,
    NodeCache,
    TokenForm,
    TrainStream,
    find_form,
    form_facts,
    form_key,
    job_indices,
    used_pages,
    with_labels,
)
from finetune_trainer.engine.collectives import ControlGroup, Tell
from finetune_trainer.quarantine import QuarantineFile
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.store import RunLog, open_store

logger = logging.getLogger(__name__)

TOKENS_FOLDER = "tokens"
"""Beside the runs of a checkpoint location, because every run with the same tokens reads them."""
CACHE_FOLDER = "data"
"""Below the node's scratch space of the run."""
INDEXING = "indexing the data"

Found = tuple[DatasetIndex, dict[int, TokenForm]]
"""An index, and the token forms of its sources, by their number."""


@dataclass(frozen=True)
class Dataset:
    """What the loop reads; `id` names the training data in checkpoints."""

    index: DatasetIndex
    stream: TrainStream
    held_out: Mapping[str, EvalSet]
    bad: QuarantineFile | None
    """Rank 0's."""
    once: Callable[[], list[EvalSet]]
    """The training data and each held-out set, to be read once and in order."""

    cache: NodeCache | None = None
    """What the ranks of this node share, where more than one reads, or reads more than once."""

    labels: LabelSet | None = None
    """A classifier's."""

    @property
    def id(self) -> str:
        """The index's id: a hash of content, formats and weights."""
        return self.index.id

    def forget(self) -> None:
        """Give up what this node keeps of the data, which nothing reads any more."""
        if self.cache is not None:
            self.cache.clear()


def open_dataset(
    job: FineTuneJob,
    context: RunContext,
    control: ControlGroup,
    log: RunLog,
    tokenizer: PreTrainedTokenizerFast,
    tokenizer_id: str,
    micro_batch_size: int,
) -> Dataset:
    """Index the sources on rank 0, or read the cached index, and open the stream on every rank; collective.

    Sources whose token form was published for `tokenizer_id` (`ModelIdentity.tokenizer`) are read in that form.
    """
    chosen = DataSettings.of(job.spec, micro_batch_size)

    def find(tell: Tell) -> tuple[DataSettings, list[Found]]:
        return _find_all(job, chosen, tokenizer_id, tell) if control.is_main else (chosen, [])

    settings, found = control.agree_long(find, context)[0]
    _say_which(found, context)
    (train, forms), *held_out = found
    bad = QuarantineFile(log.journal.store, log.journal.run_id) if control.is_main else None
    place = (control.rank, control.world_size)
    cache = node_cache(found, context, settings)
    pages = UNSHARED if cache is None else cache.reader("train")
    stream = TrainStream(train, settings, tokenizer, *place, on_bad=bad, forms=forms, pages=pages)
    named = zip(job.spec.data.eval, held_out, strict=True)
    sets = {
        source.name: EvalSet(source.name, index, settings, tokenizer, *place, on_bad=bad, forms=of_set)
        for source, (index, of_set) in named
    }
    for number, held in enumerate(sets.values()):
        held.pages = UNSHARED if cache is None else cache.reader(f"eval-{number}")

    def once() -> list[EvalSet]:
        every = EvalSet("train", train.unweighted(), settings, tokenizer, *place, forms=forms)
        every.what = "the training data"
        every.pages = UNSHARED if cache is None else cache.reader("train-once")
        return [every, *sets.values()]

    return Dataset(train, stream, sets, bad, once, cache, settings.labels)


def node_cache(found: Sequence[Found], context: RunContext, settings: DataSettings) -> NodeCache | None:
    """What the ranks of this node share of the data `found`, training data first; None where it would be of no use."""
    used = list(used_pages(*found[0]))
    for index, forms in found[1:]:
        used += used_pages(index, forms, uses=math.inf)  # read at each evaluation
    read_once = context.local_world_size == 1 and settings.epochs == 1 and len(found) == 1
    if read_once or not used or not context.data_cache_bytes:
        return None
    keeping = Keeping(used, context.data_cache_bytes)
    place = (context.local_rank, context.local_world_size)
    return NodeCache(context.workdir / CACHE_FOLDER, keeping, *place, tell=logger.warning)


def index_sources(job: FineTuneJob, tell: Tell) -> Iterator[DatasetIndex]:
    """The index of the training data and of each held-out set, from the cache or made now."""

    def progress(state: IndexProgress) -> None:
        tell(
            {
                "kind": "phase",
                "name": INDEXING,
                "detail": f"{state.records} records in {state.files} of {state.total_files} files",
                "done": state.size,
                "total": state.total_size,
                "unit": "bytes",
            }
        )

    return job_indices(job.spec, progress)


def _find_all(
    job: FineTuneJob, settings: DataSettings, tokenizer_id: str, tell: Tell
) -> tuple[DataSettings, list[Found]]:
    """The settings with the labels that are found, and every index with the token forms that its sources have."""
    store = open_store(f"{job.spec.checkpoint.uri}/{TOKENS_FOLDER}")
    found: list[Found] = []
    for index in index_sources(job, tell):
        if not found:
            settings = with_labels(settings, job.spec, index, partial(_counting, tell))
        keys = (form_key(form_facts(index, i, settings, tokenizer_id)) for i in range(len(index.sources)))
        forms = {i: form for i, key in enumerate(keys) if (form := find_form(store, key)) is not None}
        found.append((index, forms))
    return settings, found


def _counting(tell: Tell, done: int, total: int) -> None:
    """Show that the labels of a classifier are being counted."""
    amount = {"done": done, "total": total, "unit": "records"}
    tell({"kind": "phase", "name": INDEXING, "detail": "counting the labels", **amount})


def _say_which(found: Sequence[Found], context: RunContext) -> None:
    """Report which sources are read in their token form, if any is."""
    forms = [(index.sources[i].uri, form) for index, chosen in found for i, form in chosen.items()]
    if forms and context.is_main:
        named = ", ".join(f"{uri} ({form.id[:12]}, {form.index.records} records)" for uri, form in forms)
        sources = sum(len(index.sources) for index, _ in found)
        detail = f"{len(forms)} of {sources} sources in their token form: {named}"
        context.reporter.report({"kind": "phase", "name": INDEXING, "detail": detail})
