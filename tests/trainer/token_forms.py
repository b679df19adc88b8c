"""Token forms of small data, published as `finetune prepare` does, for tests of the stream."""

from __future__ import annotations

from finetune_trainer.data import (
    DatasetIndex,
    DataSettings,
    TokenForm,
    encoder_of,
    form_facts,
    form_key,
    publish,
    source_results,
    token_type,
)
from finetune_trainer.store import ObjectStore
from small_data import make_tokenizer


def publish_source(store: ObjectStore, index: DatasetIndex, source: int, settings: DataSettings) -> TokenForm:
    """The form of one source, made with the small tokenizer."""
    tokenizer = make_tokenizer()
    encoder = encoder_of(tokenizer, index.rendered_formats, settings)
    facts = form_facts(index, source, settings, "small")
    pages = source_results(index, source, settings, encoder)
    return publish(store, form_key(facts), facts, pages, token_type(len(tokenizer)))


def publish_all(store: ObjectStore, index: DatasetIndex, settings: DataSettings) -> dict[int, TokenForm]:
    """The forms of all sources, by their number."""
    return {i: publish_source(store, index, i, settings) for i in range(len(index.sources))}
