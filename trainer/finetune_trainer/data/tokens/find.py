"""Which token form suits a source: one that was made of the same content, with everything its tokens depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import ValidationError

from finetune_trainer.data.formats import CHAT_FORMATS
from finetune_trainer.data.index import INDEX_VERSION, DatasetIndex
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.tokens.format import FORM_VERSION, FormIndex, index_key
from finetune_trainer.data.tokens.read import TokenForm
from finetune_trainer.errors import StorageError
from finetune_trainer.store import ObjectNotFound, ObjectStore, open_store

ENCODING_VERSION = 2
"""Goes up whenever a record would become other tokens, labels or pieces than before."""


def form_facts(index: DatasetIndex, source: int, settings: DataSettings, tokenizer: str) -> dict[str, Any]:
    """What the tokens of source `source` of a data set depend on; `tokenizer` is a hash of tokenizer and template.

    Neither where the files lie nor weights, seeds, batch sizes or packing: these are the order's, which is computed.
    """
    one = index.sources[source]
    return {
        "versions": [FORM_VERSION, ENCODING_VERSION, INDEX_VERSION],
        "tokenizer": tokenizer,
        "maxLength": settings.max_length,
        "overlong": str(settings.overlong),
        "trainPrompts": settings.train_prompts,
        **({"labels": [settings.labels.problem, *settings.labels.names]} if settings.labels is not None else {}),
        # With no conversation among all sources, one that turns up is a bad record.
        "conversations": bool(CHAT_FORMATS & index.rendered_formats),
        "format": str(one.format),
        "columns": dict(sorted(one.columns.items())),
        "content": index.content_digest(source),
        "roleWeights": settings.role_weights and settings.role_weights.model_dump(),
    }


def form_key(facts: dict[str, Any]) -> str:
    """32 hex digits of the SHA-256 of `form_facts`: the folder under which a form is published and looked for."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def form_id(index: FormIndex) -> str:
    """32 hex digits of the SHA-256 of a form's index, which holds the checksums of all it names."""
    facts = index.model_copy(update={"root": None}).model_dump_json()
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def find_form(store: ObjectStore, key: str) -> TokenForm | None:
    """The form `key` if it was published in `store`, or elsewhere and `store` says where; only indices are read.

    Raises StorageError for an index that is no index, or one of another form.
    """
    try:
        index = FormIndex.model_validate_json(store.get(index_key(key)))
    except ObjectNotFound:
        return None
    except ValidationError as error:
        raise _unreadable(store, key, f"it cannot be read ({error.errors()[0]['msg']})") from error
    if index.key != key or form_key(index.made_of) != key:
        raise _unreadable(store, key, f"it is that of {index.key}")
    return find_form(open_store(index.root), key) if index.root else TokenForm(form_id(index), store, index)


def _unreadable(store: ObjectStore, key: str, problem: str) -> StorageError:
    return StorageError(
        f"{store.uri}/{index_key(key)} is no index of a token form: {problem}; delete {store.uri}/{key} and run "
        "`finetune prepare` again, or go on without it, which reads the sources themselves"
    )
