"""What every contestant trains on: a Llama with a vocabulary of 32 thousand, and documents of log-normal lengths.

Everything is made from seeds: words of syllables under Zipf's law, a byte-pair tokenizer trained on them, prompts with
answers cut to drawn lengths, and a model with random weights. Speed depends on shapes and lengths, not on meaning.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SEED = 11
LONGEST = 0.9  # of `max_length`: no document is cut, which every trainer does in its own way


@dataclass(frozen=True)
class Scale:
    """How big a bench is: model shape, data, and rows of an optimizer step.

    `median` and `sigma` describe the documents' lengths in tokens; `answer` is the mean share of a document that is
    trained (SFT). `rows` packed rows of `max_length` tokens make a step, or `documents` unpacked ones.
    """

    name: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    max_length: int
    median: float
    sigma: float
    answer: float
    records: int
    rows: int
    documents: int
    micro_documents: int


FULL = Scale("full", 32_000, 512, 10, 8, 1408, 512, 150.0, 0.8, 0.4, 4000, 4, 12, 4)
SMALL = Scale("small", 8_000, 256, 4, 4, 704, 512, 150.0, 0.8, 0.4, 400, 4, 12, 4)
TINY = Scale("tiny", 2_000, 64, 2, 4, 96, 64, 20.0, 0.8, 0.4, 400, 4, 12, 4)
GPU = Scale("gpu", 32_000, 2048, 16, 32, 8192, 4096, 400.0, 0.8, 0.4, 4000, 8, 64, 8)
SCALES = {scale.name: scale for scale in (FULL, SMALL, TINY)}


def chosen_scale() -> Scale:
    """`BENCH_SCALE`: full (the default), small, or tiny, to try the bench itself; bounds hold for full only."""
    return SCALES[os.environ.get("BENCH_SCALE", FULL.name)]


@dataclass(frozen=True)
class Workload:
    """The files of a scale.

    `folder` holds `model/`, `train.jsonl` (columns `prompt` and `completion`) and `text.jsonl`, the same as texts.
    """

    folder: Path
    scale: Scale
    parameters: int

    def manifest(
        self,
        name: str,
        *,
        packing: str,
        objective: str = "SFT",
        ranks: int = 1,
        zero_stage: int = 2,
        **changes: Mapping[str, Any],
    ) -> Path:
        """A full fine-tuning in float32 without evaluation and with its first commit far away, as a file.

        `changes` are fields of parts of the spec, by the part's name.
        """
        scale = self.scale
        packed, data = packing != "None", "text" if objective == "CPT" else "train"
        document: dict[str, Any] = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": f"file://{self.folder}/model"},
                "method": {"type": "Full"},
                "objective": {"type": objective},
                "data": {
                    "train": [{"uri": f"file://{self.folder}/{data}.jsonl"}],
                    "maxLength": scale.max_length,
                    "overlong": "Truncate",
                    "packing": packing,
                },
                "training": {
                    "maxSteps": 1_000_000,
                    "globalBatchSize": scale.rows if packed else scale.documents,
                    "microBatchSize": 1 if packed else scale.micro_documents,
                    "learningRate": 1e-4,
                    "schedule": {"type": "Constant", "warmupRatio": 0},
                    "precision": "FP32",
                    "seed": SEED,
                },
                "deepspeed": {"zeroStage": zero_stage},
                "checkpoint": {"uri": f"file://{self.folder}/checkpoints", "everySteps": 1_000_000},
                "output": {"uri": f"file://{self.folder}/output/{name}"},
                "workers": {"replicas": ranks, "gpusPerReplica": 0},
            },
        }
        for part, fields in changes.items():
            document["spec"][part] = {**document["spec"].get(part, {}), **fields}
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(document))  # YAML contains JSON
        return path


def make_workload(folder: Path, scale: Scale) -> Workload:
    """Write model, tokenizer and data; the same bytes for the same scale."""
    generator = np.random.default_rng(SEED)
    words = lexicon(generator, 2 * scale.vocabulary)
    tokenizer = make_tokenizer(words, scale.vocabulary)
    tokenizer.save_pretrained(folder / "model")
    parameters = save_model(folder / "model", scale)
    with (folder / "train.jsonl").open("w") as answers, (folder / "text.jsonl").open("w") as texts:
        for record in records(generator, words, tokenizer, scale):
            answers.write(json.dumps(record) + "\n")
            texts.write(json.dumps({"text": record["prompt"] + record["completion"]}) + "\n")
    return Workload(folder, scale, parameters)


def lexicon(generator: np.random.Generator, size: int) -> list[str]:
    """Distinct words of one to four syllables, the most frequent first."""
    syllables = ["".join(parts) for parts in itertools.product("bdfgklmnprstvz", "aeiou", ["", "n", "r", "s"])]
    words = dict.fromkeys(
        "".join(generator.choice(syllables, generator.integers(1, 5))) for _ in range(2 * size)
    )  # a dict keeps the order in which they were drawn
    return list(words)[:size]


def make_tokenizer(words: list[str], vocabulary: int) -> Any:
    """A byte-level BPE of exactly that many tokens, trained on the words by their frequencies."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((" " + word for word in words), trainer)
    make: Any = transformers.PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|endoftext|>")
    if len(tokenizer) != vocabulary:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens instead of {vocabulary}: more words are needed")
    return tokenizer


def save_model(folder: Path, scale: Scale) -> int:
    """Save a Llama with random weights and a tied head; returns its number of parameters."""
    config = transformers.LlamaConfig(
        vocab_size=scale.vocabulary,
        hidden_size=scale.hidden,
        intermediate_size=scale.intermediate,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        num_key_value_heads=scale.heads // 2,
        max_position_embeddings=max(2048, scale.max_length),
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(SEED)
    with torch.device("cuda" if scale == GPU else "cpu"):
        model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def records(generator: np.random.Generator, words: list[str], tokenizer: Any, scale: Scale) -> Iterator[dict[str, str]]:
    """Prompts and answers; a document has a log-normal number of tokens; a share around `answer` is trained."""
    frequency = 1.0 / np.arange(10, len(words) + 10)  # Zipf's law, flattened at its head as in Mandelbrot's form of it
    frequency /= frequency.sum()
    pieces = np.array([len(encoding) for encoding in tokenizer([" " + word for word in words])["input_ids"]])
    tokens_per_word = float((pieces * frequency).sum())
    drawn = generator.lognormal(np.log(scale.median), scale.sigma, scale.records)
    for length in np.minimum(drawn, LONGEST * scale.max_length) / tokens_per_word:
        share = float(np.clip(generator.normal(scale.answer, 0.1), 0.1, 0.9))
        counts = [max(1, round(length * (1 - share))), max(1, round(length * share))]
        prompt, answer = ("".join(f" {words[i]}" for i in generator.choice(len(words), n, p=frequency)) for n in counts)
        yield {"prompt": prompt, "completion": answer}
