"""The tokenizer that texts are encoded with, and where in its encodings characters are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Encoding, Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
