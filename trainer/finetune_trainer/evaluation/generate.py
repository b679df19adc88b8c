"""Greedy answers of the model in the engine, in batches, over all ranks.

Generation itself is transformers' own, with settings that are ours: those of the model's folder may sample, or punish
repetition, and two models would then not be compared on the same terms. It works on the engine's module as it is: whole
at ZeRO 0 to 2, with adapters attached, and gathered layer by layer at ZeRO-3, where ranks go on together until the last
one is done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.evaluation.batches import Batch, batches_of, on_all_ranks
from finetune_trainer.model.load import is_partitioned

MOST_TOKENS = 16_384
"""Tokens of a batch, those to come included: 2 GB of keys and values for a model of 8 billion parameters."""


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue, and a text at which the answer is cut; None: it goes on to the end of the turn."""

    ids: Sequence[int]
    stop: str | None = None


@dataclass(frozen=True)
class Generator:
    """Continues prompts greedily until a token of `ends`, or for `max_new_tokens` tokens."""

    engine: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    control: ControlGroup
    ends: Collection[int]
    max_new_tokens: int

    def answers(self, prompts: Sequence[Prompt], between_batches: Callable[[], None]) -> list[str]:
        """The answer to each prompt, without special tokens and white space at its ends; collective.

        Leaves the engine in evaluation mode. `between_batches` is called equally often on every rank, and ends it by
        raising.
        """
        self.engine.eval()
        batches = batches_of([len(prompt.ids) + self.max_new_tokens for prompt in prompts], MOST_TOKENS)
        found = on_all_ranks(batches, lambda batch: self._batch(prompts, batch), self.control, between_batches)
        return [_cut(found[place], prompt.stop) for place, prompt in enumerate(prompts)]

    @torch.no_grad()
    def _batch(self, prompts: Sequence[Prompt], batch: Batch) -> list[str]:
        width = max(len(prompts[place].ids) for place in batch)
        pad = int(self.tokenizer.pad_token_id or 0)
        ids = torch.full((len(batch), width), pad, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, place in enumerate(batch):
            own = torch.tensor(list(prompts[place].ids))
            ids[row, width - len(own) :], mask[row, width - len(own) :] = own, 1
        model = self._model()
        with _settings_of(model, self._settings(pad)):
            made = model.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                synced_gpus=any(is_partitioned(parameter) for parameter in model.parameters()),
            )
        texts: list[str] = self.tokenizer.batch_decode(made[:, width:].tolist(), skip_special_tokens=True)
        return texts

    def _model(self) -> Any:
        """The causal language model itself, with the adapters that peft has put into its layers."""
        module = self.engine.module
        return module.get_base_model() if isinstance(module, PeftModel) else module

    def _settings(self, pad: int) -> GenerationConfig:
        make: Any = GenerationConfig
        settings: GenerationConfig = make(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=list(self.ends) or None,
            pad_token_id=pad,
            use_cache=True,
        )
        return settings


@contextmanager
def _settings_of(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Generate with these settings alone: transformers fills in from the model's own what a caller's leave out."""
    own, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = own


def _cut(text: str, stop: str | None) -> str:
    stripped = text.strip()
    return stripped if stop is None else stripped.split(stop, 1)[0].rstrip()
