"""A whole small job on disk: tokenizer, tiny Llama, question-and-answer data, and the manifest that joins them."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import tiny_models

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TIMES = ("seconds", "dataSeconds", "time", "hostBytes")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class SmallJob:
    """`folder` holds `model/`, `train.jsonl` and `eval.jsonl`; runs write `checkpoints/` and `output/` below it."""

    folder: Path

    def manifest(self, name: str = "small", **spec: Any) -> dict[str, Any]:
        """A LoRA job in float32 on two CPU ranks: 12 steps of 6 rows; `spec` is merged in, None removes."""
        document: dict[str, Any] = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": f"file://{self.folder}/model"},
                "method": {"type": "LoRA", "lora": {"rank": 4, "alpha": 8}},
                "objective": {"type": "SFT"},
                "data": {
                    "train": [{"uri": f"file://{self.folder}/train.jsonl"}],
                    "eval": [{"name": "held-out", "uri": f"file://{self.folder}/eval.jsonl"}],
                    "maxLength": 96,
                },
                "training": {
                    "maxSteps": 12,
                    "globalBatchSize": 6,
                    "microBatchSize": 2,
                    "learningRate": 0.005,
                    "precision": "FP32",
                    "seed": 1,
                },
                "deepspeed": {"zeroStage": 2},
                "checkpoint": {"uri": f"file://{self.folder}/checkpoints", "everySteps": 4},
                "evaluation": {"everySteps": 6, "samples": 0},  # comparing records has tests of its own
                "output": {"uri": f"file://{self.folder}/output/{name}"},
                "workers": {"replicas": 2, "gpusPerReplica": 0},
            },
        }
        return _merged(document, {"spec": spec})

    def write(self, name: str = "small", **spec: Any) -> Path:
        """The manifest as `<name>.yaml` in the folder."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.manifest(name, **spec)))
        return path

    def metrics(self, name: str = "small") -> list[dict[str, Any]]:
        """What the exported run recorded of each step and evaluation, without its times and memory."""
        lines = (self.folder / "output" / name / "metrics.jsonl").read_text().splitlines()
        return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]

    def measured_before(self, name: str = "small") -> dict[str, Any]:
        """What the run kept of the model before training."""
        path = self.folder / "checkpoints" / f"default.{name}" / "evaluation" / "before.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def make_small_job(folder: Path, *, kind: str = "llama", records: int = 160, **config: Any) -> SmallJob:
    """Write tokenizer, model (`config` goes to its configuration) and data; equal bytes for equal arguments."""
    conversations = [_conversation(number) for number in range(records + 24)]
    texts = [message["content"] for conversation in conversations for message in conversation["messages"]]
    tokenizer = _tokenizer(texts)
    tiny_models.save(kind, folder / "model", vocab_size=len(tokenizer), **config)
    tokenizer.save_pretrained(folder / "model")
    _write_lines(folder / "train.jsonl", conversations[:records])
    _write_lines(folder / "eval.jsonl", conversations[records:])
    return SmallJob(folder)


def _conversation(number: int) -> dict[str, Any]:
    one, other = WORDS[number % 13], WORDS[(number * 5 + number // 13) % 13]
    question = f"What do {one} and {other} make{' together' if number % 3 else ''}?"
    total = WORDS.index(one) + WORDS.index(other)
    answer = f"{one} and {other} make {total}." + (f" That is {'even' if total % 2 == 0 else 'odd'}." * (number % 4))
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer  # type: ignore[no-any-return]


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        if value is None:
            del merged[key]
    return merged
