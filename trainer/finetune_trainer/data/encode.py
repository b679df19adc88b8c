"""Examples to token ids and labels, with every mask proved by decoding what it keeps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from finetune_trainer.data.answers import ChatRenderer, Rendering
from finetune_trainer.data.backend import batched, plain_backend, token_at
from finetune_trainer.data.examples import (
    BadRecord,
    Chat,
    Completion,
    Example,
    Judged,
    Preference,
    Written,
    targets_of,
    texts_of,
)
from finetune_trainer.data.formats import CHAT_FORMATS
from finetune_trainer.data.rows import IGNORED
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.template import ChatTemplate
from finetune_trainer.errors import DataError
from finetune_trainer.spec.data import Format
from finetune_trainer.spec.objective import RoleWeights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Document:
    """The tokens of one record, or of a piece of it: `input_ids` and `labels` int32[n], the first label always -100.

    `weights` float32[n]: how much each label counts, where they differ. `targets`: what the record says besides. A
    record of several documents holds them one behind the other; `lengths` are theirs then.
    """

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    weights: NDArray[np.float32] | None = None
    targets: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()

    def part(self, start: int, end: int) -> Document:
        """The tokens from `start` to before `end` as a piece of their own; its first label is -100 too."""
        labels = self.labels[start:end].copy()
        labels[:1] = IGNORED
        return Document(self.input_ids[start:end], labels, None if self.weights is None else self.weights[start:end])

    def parts(self) -> tuple[Document, ...]:
        """The documents that the record consists of."""
        bounds = list(accumulate(self.lengths, initial=0))
        return tuple(self.part(start, end) for start, end in pairwise(bounds)) or (self,)


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: NDArray[np.int32]
    spans: list[tuple[int, int]]


class Encoder:
    """Turns examples into documents with a tokenizer of its own, so that nobody else's settings reach it.

    `formats`: as in `DatasetIndex.rendered_formats`. A conversation among formats that have none is a bad record,
    because neither its template was proved nor will the export know how its turns end.

    Conversations: the chat template's text, tokenised as it stands. Prompt and completion: one text, without a
    separator, and the end-of-text token. Text: itself and the end-of-text token. The last two begin with the
    beginning-of-text token where the tokenizer normally writes one, and never with two.

    No token spans the border between a prompt and its answer: where tokenising the whole text makes one, the text is
    cut there and tokenised in pieces, which is what a server does when it is given the prompt alone.

    `scored`: texts and conversations are read and not answered. A text is what the tokenizer makes of it by itself, and
    every token counts as trained.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        formats: Collection[Format],
        *,
        train_prompts: bool = False,
        role_weights: RoleWeights | None = None,
        scored: bool = False,
    ) -> None:
        if not tokenizer.is_fast:
            raise DataError("the model's tokenizer is not a fast one: add its tokenizer.json to the model's folder")
        self._tokenizer = tokenizer
        self._train_prompts = train_prompts
        self._role_weights = role_weights
        self._backend = plain_backend(tokenizer)
        self._takes_chats = bool(CHAT_FORMATS.intersection(formats))
        self._read = ChatTemplate(tokenizer) if scored and self._takes_chats else None
        self._scored = scored
        if self._takes_chats and not scored:
            self._prove_template()
        if not CHAT_FORMATS.issuperset(formats) and not scored:
            self._eos  # noqa: B018 -- raises now, not at the first record

    def encode(self, examples: Sequence[Example | BadRecord]) -> list[Document | BadRecord]:
        """One document per example, or the reason why there is none; bad records given in are handed through."""
        rendered = [[self._render(text) for text in texts_of(example)] for example in examples]
        found = [item for items in rendered for item in items if isinstance(item, Rendering)]
        documents = chain.from_iterable(self._documents(batch) for batch in batched(found))
        made = [[next(documents) if isinstance(item, Rendering) else item for item in items] for items in rendered]
        return [_joined(example, items) for example, items in zip(examples, made, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def _render(self, example: Written | BadRecord) -> Rendering | BadRecord:
        if isinstance(example, BadRecord):
            return example
        try:
            rendering = self._rendering(example)
            rendering.text.encode()
        except BadRecord as error:
            return error
        except UnicodeEncodeError:
            return BadRecord("half of a surrogate pair, which is no Unicode text")
        except RecursionError:
            return BadRecord("nested too deeply")
        if self._train_prompts:
            return Rendering(rendering.text, ((0, len(rendering.text)),), rendering.whole)
        return rendering

    def _rendering(self, example: Written) -> Rendering:
        if isinstance(example, Chat):
            if not self._takes_chats:
                raise BadRecord("messages, but the first records hold texts: write one source for each kind")
            if self._read is not None:
                return _read_only(self._read, example)
            own = any(example.weights.get(i, 1.0) != 1.0 for i in example.trained)
            if own or (self._role_weights is not None and not self._train_prompts):
                return self._chats.weighted(example, self._role_weights)
            return self._chats.render(example)
        if isinstance(example, Completion):
            text = example.prompt + example.completion
            return Rendering(text, ((len(example.prompt), len(text)),))
        return Rendering(example.text, ((0, len(example.text)),))

    def _documents(self, renderings: Sequence[Rendering]) -> list[Document | BadRecord]:
        encodings = self._backend.encode_batch([r.text for r in renderings], add_special_tokens=False)
        tokens = [self._tokens(r, encoding) for r, encoding in zip(renderings, encodings, strict=True)]
        proved = self._prove(renderings, tokens)
        return [
            self._document(r, t) if good else BadRecord("the tokens to train do not decode to the answer")
            for r, t, good in zip(renderings, tokens, proved, strict=True)
        ]

    def _tokens(self, rendering: Rendering, encoding: Encoding) -> _Tokens:
        spans = []
        for start, end in rendering.spans:
            first, cut = token_at(encoding, start, len(rendering.text))
            if cut:
                return self._tokens_in_pieces(rendering)
            spans.append((first, token_at(encoding, end, len(rendering.text))[0]))
        return _Tokens(np.array(encoding.ids, dtype=np.int32), spans)

    def _tokens_in_pieces(self, rendering: Rendering) -> _Tokens:
        """The text cut where each span begins."""
        cuts = [0, *(start for start, _ in rendering.spans), len(rendering.text)]
        pieces = [rendering.text[begin:end] for begin, end in pairwise(cuts)]
        ids: list[int] = []
        spans = []
        for i, encoding in enumerate(self._backend.encode_batch(pieces, add_special_tokens=False)):
            if i:
                start, end = rendering.spans[i - 1]
                spans.append((len(ids), len(ids) + token_at(encoding, end - start, len(pieces[i]))[0]))
            ids += encoding.ids
        return _Tokens(np.array(ids, dtype=np.int32), spans)

    def _prove(self, renderings: Sequence[Rendering], tokens: Sequence[_Tokens]) -> list[bool]:
        """Whether the tokens of every span decode to the span's text; a text that is trained as a whole has no mask."""
        masked = [r.spans != ((0, len(r.text)),) for r in renderings]
        kept = [t.ids[a:b].tolist() for t, proof in zip(tokens, masked, strict=True) if proof for a, b in t.spans]
        decoded = iter(self._backend.decode_batch(kept, skip_special_tokens=False))
        return [
            not proof or all([self._same(next(decoded), r.text[start:end]) for start, end in r.spans])
            for r, proof in zip(renderings, masked, strict=True)
        ]

    def _same(self, decoded: str, expected: str) -> bool:
        """Whether two texts are equal but for white space at their ends and what the tokenizer normalises."""
        if decoded.strip() == expected.strip():
            return True
        normalizer = self._backend.normalizer
        if normalizer is None:
            return False
        one, other = (normalizer.normalize_str(text).replace("\u2581", " ").strip() for text in (decoded, expected))
        return bool(one == other)

    def _document(self, rendering: Rendering, tokens: _Tokens) -> Document | BadRecord:
        labels = np.full(len(tokens.ids), IGNORED, dtype=np.int32)
        weights = None if rendering.weights is None else np.ones(len(labels), dtype=np.float32)
        for n, (first, end) in enumerate(tokens.spans):
            labels[first:end] = tokens.ids[first:end]
            if weights is not None and rendering.weights is not None:
                weights[first:end] = rendering.weights[n]
        ids = tokens.ids
        if not rendering.whole:
            ids, labels = self._completed(ids, labels)
        if not self._scored:
            labels[:1] = IGNORED
        if not np.any(labels != IGNORED):
            return BadRecord("the text has no token" if self._scored else "the answer has no token to train")
        return Document(ids, labels, weights)

    def _completed(
        self, ids: NDArray[np.int32], labels: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """With the tokens that begin (where the tokenizer writes one) and end a text, unless they are there already."""
        bos, behind = self._around
        before = [] if ids[: len(bos)].tolist() == bos else bos
        end = behind if self._scored else [self._eos]
        after = [] if ids[len(ids) - len(end) :].tolist() == end else end
        masked = np.full(len(before), IGNORED, dtype=np.int32)
        return (
            np.concatenate([np.array(before, dtype=np.int32), ids, np.array(after, dtype=np.int32)]),
            np.concatenate([masked, labels, np.array(after, dtype=np.int32)]),
        )

    @cached_property
    def _chats(self) -> ChatRenderer:
        return ChatRenderer(self._tokenizer)

    def _prove_template(self) -> None:
        sample = self._documents([self._chats.sample])[0]
        if isinstance(sample, BadRecord):
            raise DataError(
                f"spec.model.chatTemplate: on a sample conversation, {sample}; name another template"
            ) from sample

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer writes in front of a text and behind it on its own account."""
        plain = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        ids = list(self._tokenizer("a")["input_ids"])
        starts = [i for i in range(len(ids)) if ids[i : i + len(plain)] == plain]
        return (ids[: starts[0]], ids[starts[0] + len(plain) :]) if starts else ([], [])

    @cached_property
    def _eos(self) -> int:
        eos = self._tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise DataError(
                "the model's tokenizer names no end-of-text token: set eos_token in its tokenizer_config.json"
            )
        return eos


def encoder_of(tokenizer: PreTrainedTokenizerBase, formats: Collection[Format], settings: DataSettings) -> Encoder:
    """The encoder of a job's settings; `formats`: as `Encoder` takes them."""
    return Encoder(
        tokenizer,
        formats,
        train_prompts=settings.train_prompts,
        role_weights=settings.role_weights,
        scored=settings.scored,
    )


def _joined(example: Example | BadRecord, documents: Sequence[Document | BadRecord]) -> Document | BadRecord:
    """The document of an example whose texts became these; a pair needs two that differ."""
    bad = next((found for found in documents if isinstance(found, BadRecord)), None)
    if bad is not None or not isinstance(example, Preference | Judged):
        return bad or documents[0]
    good = [found for found in documents if isinstance(found, Document)]
    if len(good) == 1:
        return replace(good[0], targets=targets_of(example))
    if np.array_equal(good[0].input_ids, good[1].input_ids):
        return BadRecord("the chosen and the rejected answer are the same")
    ids, labels = (np.concatenate([getattr(one, name) for one in good]) for name in ("input_ids", "labels"))
    return Document(ids, labels, None, targets_of(example), tuple(len(one.input_ids) for one in good))


def _read_only(template: ChatTemplate, chat: Chat) -> Rendering:
    """A conversation as its template writes it, all of it."""
    template.check(chat)
    text = template.apply(chat, len(chat.messages))
    return Rendering(text, ((0, len(text)),), whole=True)
