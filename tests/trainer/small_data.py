"""Small real tokenizers, trained on the spot, and small real data files in every container, for tests of the stream."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import zstandard
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune_trainer.data import DatasetIndex, DataSettings, build_index, list_sources
from finetune_trainer.spec import EvalSource, Format, Source, TrainSource

TEXT = (
    "the a model learns to answer questions about numbers words and files that people ask when they read what it wrote "
    "because nobody knows how long an answer will be before it has been given in full"
)
WORDS = TEXT.split()

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@cache
def _trained() -> str:
    """A byte-level BPE of 400 tokens, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT, "user\nassistant\nsystem\n", json.dumps({"a": 1})] * 20, trainer)
    return str(tokenizer.to_str())


def make_tokenizer(
    template: str | None = CHATML,
    *,
    special: Iterable[str] = ("<|im_start|>", "<|im_end|>"),
    eos: str | None = "<|im_end|>",
    writes_bos: bool = False,
    trim_offsets: bool = True,
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with these special tokens, `<bos>` and `<pad>`; `writes_bos`: by itself, like Llama's."""
    tokenizer = Tokenizer.from_str(_trained())
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<bos>", "<pad>", *special)])
    steps: list[processors.PostProcessor] = [processors.ByteLevel(trim_offsets=trim_offsets)]
    if writes_bos:
        bos = [("<bos>", tokenizer.token_to_id("<bos>"))]
        steps.append(processors.TemplateProcessing(single="<bos> $A", special_tokens=bos))
    tokenizer.post_processor = processors.Sequence(steps)
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token=eos, pad_token="<pad>"
    )
    made.chat_template = template
    return made


def write_records(path: Path, records: Iterable[Any], *, row_group_size: int = 100_000) -> Path:
    """Write records into a container chosen by the suffix; strings and bytes are written as lines, as they are."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), path, row_group_size=row_group_size)
        return path
    content = b"".join(_line(record) + b"\n" for record in records)
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = zstandard.compress(content)
    path.write_bytes(content)
    return path


def _line(record: Any) -> bytes:
    if isinstance(record, bytes):
        return record
    return (record if isinstance(record, str) else json.dumps(record)).encode()


def sentence(number: int, words: int) -> str:
    """A text of that many words that depends on `number`."""
    return " ".join(WORDS[(number * 7 + i * (number % 5 + 1)) % len(WORDS)] for i in range(words))


def conversation(number: int) -> dict[str, Any]:
    """A question and an answer of 1 to 13 words; the number is part of both."""
    return {
        "messages": [
            {"role": "user", "content": f"{number}? {sentence(number, number % 4 + 1)}"},
            {"role": "assistant", "content": f"{number}: {sentence(number + 1, number * 5 % 13 + 1)}"},
        ]
    }


def source(path: Path | str, *, weight: float = 1.0, format_: Format = Format.AUTO, **columns: str) -> TrainSource:
    """A training source over local files, or at an address."""
    return TrainSource(uri=_uri(path), weight=weight, format=format_, columns=columns)


def held_out(path: Path | str, *, format_: Format = Format.AUTO) -> EvalSource:
    """A held-out source over local files, or at an address."""
    return EvalSource(uri=_uri(path), format=format_, name="held-out")


def _uri(path: Path | str) -> str:
    return path if isinstance(path, str) else f"file://{path}"


def index_of(*sources: Source) -> DatasetIndex:
    """The index of sources, built without a cache."""
    return build_index(list_sources(sources, "spec.data.train"))


def settings(**values: Any) -> DataSettings:
    """Settings of a small run of one epoch."""
    defaults: dict[str, Any] = {"max_length": 96, "global_batch_size": 8, "micro_batch_size": 2}
    if "max_steps" not in values:
        defaults["epochs"] = 1
    return DataSettings(**(defaults | values))


def trained_texts(tokenizer: PreTrainedTokenizerFast, input_ids: Iterable[Any], labels: Iterable[Any]) -> list[str]:
    """The decoded runs of trained tokens."""
    runs: list[list[int]] = []
    inside = False
    for token, label in zip(input_ids, labels, strict=True):
        if label != -100:
            if not inside:
                runs.append([])
            runs[-1].append(int(token))
        inside = label != -100
    return [tokenizer.backend_tokenizer.decode(run, skip_special_tokens=False) for run in runs]
