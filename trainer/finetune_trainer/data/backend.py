"""The tokenizer that texts are encoded with, and where in its encodings characters are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tokenizers import Encoding, Tokenizer

from finetune_trainer.data.answers import Rendering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# An encoding takes some 150 bytes per token until its ids are taken out; this bounds how many there are at a time.
BATCH_CHARACTERS = 1 << 20


def plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the tokenizer that adds nothing, cuts nothing, and whose offsets cover white space too."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = None  # byte-level ones trim white space from offsets
    backend.no_truncation()
    backend.no_padding()
    return backend


def token_at(encoding: Encoding, position: int, length: int) -> tuple[int, bool]:
    """The first token that begins at or behind a character, and whether the one before reaches over the character."""
    for at in range(position, length):  # a character that no token covers, such as a dropped space, is passed over
        token = encoding.char_to_token(at)
        if token is not None:
            over = _begin(encoding, token) < position
            return token + over, over
    return len(encoding.ids), False


def _begin(encoding: Encoding, token: int) -> int:
    chars = encoding.token_to_chars(token)
    return 0 if chars is None else chars[0]


def batched(renderings: Sequence[Rendering]) -> Iterator[list[Rendering]]:
    """Them in their order, as many at a time as `BATCH_CHARACTERS` allow, at least one."""
    batch: list[Rendering] = []
    size = 0
    for rendering in renderings:
        batch.append(rendering)
        size += len(rendering.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
