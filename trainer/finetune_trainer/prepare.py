"""`finetune prepare`: the token form of every source of a job, published once for every job that can read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedTokenizerFast

from finetune_trainer.data import (
    DatasetIndex,
    DataSettings,
    TokenForm,
    encoder_of,
    find_form,
    form_facts,
    form_key,
    point_to,
    publish,
    source_results,
    token_type,
    with_labels,
)
from finetune_trainer.dataset import TOKENS_FOLDER, index_sources
from finetune_trainer.engine.collectives import Tell
from finetune_trainer.model.adapter_folder import copy_small_files, fetch_adapter
from finetune_trainer.model.fetch import fetch_model
from finetune_trainer.model.fingerprint import tokenizer_digest
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.spec import AdapterUse, FineTuneJob
from finetune_trainer.store import ObjectStore, open_store


@dataclass(frozen=True)
class Prepared:
    """A source's form, and whether it was there already."""

    uri: str
    form: TokenForm
    found: bool


def prepare(job: FineTuneJob, models: Path, to: str | None = None, tell: Tell = print) -> Iterator[Prepared]:
    """Publish what is missing of the forms of the job's training and held-out sources, under `<to>/tokens`, in turn.

    `to` is the checkpoint location where it is left out; from elsewhere, that location is told where the form is.
    `models`: where a model that is not in a local folder is kept. `tell` takes events as a launcher does. Raises the
    FinetuneError of data, model or store that the job would end with.
    """
    settings, added = DataSettings.of(job.spec, micro_batch_size=1), job.spec.model.added_tokens
    with TemporaryDirectory() as folder:
        path = _tokenizer_folder(job, models, Path(folder))
        tokenizer = load_tokenizer(path, job.spec.model.chat_template, added)
        digest = tokenizer_digest(path, tokenizer, added)
    indices = index_sources(job, tell)
    train = next(indices)
    settings = with_labels(settings, job.spec, train)
    publisher = _Publisher(job, settings, tokenizer, digest, to)
    for index in chain([train], indices):
        for source in range(len(index.sources)):
            yield publisher.prepared(index, source)


def _tokenizer_folder(job: FineTuneJob, models: Path, folder: Path) -> Path:
    """The model's folder, or `folder` with the files that the model gets once an adapter is merged into it."""
    path, start = fetch_model(job.spec.model.uri, models), job.spec.model.adapter
    if start is None or start.use is not AdapterUse.MERGE:
        return path
    copy_small_files(path, fetch_adapter(start.uri, models), folder)
    return folder


class _Publisher:
    def __init__(
        self,
        job: FineTuneJob,
        settings: DataSettings,
        tokenizer: PreTrainedTokenizerFast,
        tokenizer_id: str,
        to: str | None,
    ) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._tokenizer_id = tokenizer_id
        self._home = open_store(f"{job.spec.checkpoint.uri}/{TOKENS_FOLDER}")
        self._store: ObjectStore = open_store(f"{to}/{TOKENS_FOLDER}") if to else self._home

    def prepared(self, index: DatasetIndex, source: int) -> Prepared:
        """The form of one source: found where jobs look for it, found where it shall be, or published there."""
        facts = form_facts(index, source, self._settings, self._tokenizer_id)
        key, uri = form_key(facts), index.sources[source].uri
        form = find_form(self._home, key)
        if form is not None:
            return Prepared(uri, form, found=True)
        form = find_form(self._store, key)
        found = form is not None
        if form is None:
            encoder = encoder_of(self._tokenizer, index.rendered_formats, self._settings)
            with closing(source_results(index, source, self._settings, encoder)) as pages:
                form = publish(self._store, key, facts, pages, token_type(len(self._tokenizer)))
        if self._store.uri != self._home.uri:
            point_to(self._home, form)
        return Prepared(uri, form, found)
