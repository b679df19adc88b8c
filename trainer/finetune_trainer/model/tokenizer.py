"""The model's tokenizer, with the chat template that the manifest asks for, checked against the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateSyntaxError
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

from finetune_trainer.errors import DataError, Problem, SpecError

# Padding tokens that published models reserve without declaring them (Llama 3.1, Llama 2 derivatives, Pythia, Phi).
RESERVED_PADDING = ("<|finetune_right_pad_id|>", "<pad>", "<|pad|>", "[PAD]", "<|padding|>", "<|dummy_0|>")


def load_tokenizer(
    path: Path, chat_template: str | None = None, added_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """The fast tokenizer in the model folder `path`, always with a padding token.

    `chat_template` replaces the tokenizer's own: Jinja text, or `file:///template.jinja`. A tokenizer without padding
    token gets the one its vocabulary reserves, else its end-of-sequence token; no token is added for it. Padding being
    equal to the end of sequence hides no target here: what is trained is decided by labels and never by token id. Those
    of `added_tokens` that it does not know get the next free ids, in this order.

    Raises DataError if there is no fast tokenizer, SpecError if the template cannot be read or is no Jinja.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"spec.model.uri: {path} has no tokenizer that transformers can read: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(
            f"spec.model.uri: {path} has no fast tokenizer (tokenizer.json), which tells where a token lies in its "
            "text: convert it with transformers.convert_slow_tokenizer and save it beside the weights"
        )
    if chat_template is not None:
        tokenizer.chat_template = _read_template(chat_template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _padding_token(tokenizer, path)
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([token for token in dict.fromkeys(added_tokens) if token not in known])
    return tokenizer


def check_fits(tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig, max_length: int, added: int = 0) -> None:
    """Whether ids and positions lie within the model's tables, which grow by up to `added` tokens.

    DataError if the tokenizer has ids that the model has no embedding for, SpecError if rows of `max_length` tokens
    have more positions than the model was made for.
    """
    text = config.get_text_config()
    if len(tokenizer) - added > text.vocab_size:
        raise DataError(
            f"spec.model.uri: the tokenizer has {len(tokenizer) - added} tokens, the model embeds {text.vocab_size}: "
            "they belong to different models, or the embeddings were not resized before saving"
        )
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise SpecError(
            [Problem("spec.data.maxLength", max_length, f"the model has {positions} positions: write less")]
        )


def _read_template(chat_template: str) -> str:
    path = "spec.model.chatTemplate"
    text = chat_template
    if chat_template.startswith("file://"):
        try:
            text = Path(chat_template.removeprefix("file://")).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(
                [Problem(path, chat_template, f"cannot be read ({error}): write a readable file")]
            ) from error
    try:
        _compile_jinja_template(text)
    except TemplateSyntaxError as error:
        message = f"is no Jinja template ({error.message}, line {error.lineno}): correct it"
        raise SpecError([Problem(path, text[:80], message)]) from error
    return text


def _padding_token(tokenizer: PreTrainedTokenizerFast, path: Path) -> str:
    vocabulary = tokenizer.get_vocab()
    for token in (*RESERVED_PADDING, tokenizer.eos_token):
        if token is not None and token in vocabulary:
            return str(token)
    raise DataError(
        f"spec.model.uri: the tokenizer of {path} has neither a padding nor an end-of-sequence token: set one"
    )
