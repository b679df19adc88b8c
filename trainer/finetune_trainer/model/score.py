"""Models that score documents: transformers' sequence classifiers, whose head `score` is a linear layer over positions.

A causal language model's folder gives all weights but the head's, which begins at random values that depend on the seed
alone. transformers reads the score of a row at its last token that is no padding; `ScorePositions` reads it wherever a
document ends, so that several may stand in one row, without knowing the architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedConfig, PreTrainedModel

from finetune_trainer.errors import DataError
from finetune_trainer.model.keys import SCORE, SCORE_WEIGHT, causal_model_class, check_weights, without_zero3


@dataclass(frozen=True)
class ScoreHead:
    """What the head says: one score for each of `labels`, whose loss transformers calls `problem_type`.

    `pad_id` is what transformers skips when it looks for the end of a row. `seed` decides the values of a new head.
    """

    labels: tuple[str, ...]
    problem_type: str
    pad_id: int
    seed: int = 0


def scoring_class(
    config: PreTrainedConfig, headers: Mapping[str, Tensor], head: ScoreHead, uri: str
) -> type[PreTrainedModel]:
    """The sequence classifier for the folder with this `config` and these weights; tells `config` what the head says.

    Raises DataError for an architecture without one, for weights that are neither those of its causal language model
    nor of its classifier, and for a classifier with other scores than `head` has.
    """
    mapping: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) not in mapping:
        raise DataError(f"spec.model.uri: {uri} is of type {config.model_type!r}, {_NO_HEAD}")
    model_class: type[PreTrainedModel] = mapping[type(config)]
    if SCORE_WEIGHT in headers:
        check_labels(config, head.labels, "spec.model.uri", uri)
        _tell(config, head)
        check_weights(config, headers, uri, model_class)
    else:
        check_weights(config, headers, uri, causal_model_class(config, uri))
        _tell(config, head)
    with without_zero3(), torch.device("meta"):
        if SCORE not in model_class(config)._modules:
            raise DataError(f"spec.model.uri: {uri} is of type {config.model_type!r}, {_NO_HEAD}")
    return model_class


_NO_HEAD = (
    "of which transformers has no classifier with a linear layer `score` over the hidden states: write a decoder "
    "such as Llama, Qwen3, Gemma, Mistral or GPT-2"
)


def check_labels(config: PreTrainedConfig, labels: tuple[str, ...], field: str, uri: str) -> None:
    """A head that was trained before goes on with the scores that it has, in their order, if they have names.

    DataError naming `field` unless those of `config` are the job's `labels`.
    """
    named: Any = config.id2label  # filled by transformers, by id
    there = tuple(named[i] for i in range(len(named)))
    unnamed = len(there) == 1 or there == tuple(f"LABEL_{i}" for i in range(len(there)))
    if len(there) != len(labels) or (there != labels and not unnamed):
        raise DataError(
            f"{field}: {uri} scores {', '.join(there[:8])} ({len(there)} in all), and this job "
            f"{', '.join(labels[:8])} ({len(labels)}): write its labels, in its order, as "
            "spec.objective.classification.labels, or start from the causal language model for a new head"
        )


def _tell(config: PreTrainedConfig, head: ScoreHead) -> None:
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: i for i, label in enumerate(head.labels)}
    config.problem_type = head.problem_type  # type: ignore[assignment]  # one of transformers' three
    config.get_text_config().pad_token_id = head.pad_id


def classifier(module: nn.Module) -> Any:
    """The sequence classifier in a module (a PeftModel around it, or itself); None where there is none."""
    return next((part for part in module.modules() if SCORE in part._modules), None)


class ScorePositions:
    """Makes a sequence classifier give its scores at chosen positions; see `head.KeptPositions`.

    Works with LoRA around it, ZeRO-3 and gradient checkpointing. Outside of `select` the model behaves as ever.
    """

    def __init__(self, model: nn.Module) -> None:
        """Raises ValueError for a model without a head called `score`."""
        self._owner = classifier(model)
        if self._owner is None:
            raise ValueError(f"{type(model).__name__} has no score head; only sequence classifiers can be trained so")
        self._score = self._owner.get_submodule(SCORE)

    @contextmanager
    def select(self, index: Tensor) -> Iterator[None]:
        """While open, `model(...).logits` is [1, K, N]: the scores at `index` (int64 [K]) of the flattened [B*L].

        The model itself, which would look for the end of each row, is given zeros to choose from. The hooks are put on
        here, so that those of DeepSpeed, which gather weights before the backward pass, come before the scores are
        taken and after they are handed out. K may be 0, as with `KeptPositions`.
        """
        rows: list[torch.Size] = []
        taken: list[Tensor] = []

        def choose(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, *others = inputs
            rows.append(hidden.shape[:2])
            return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, index)[None], *others)

        def take(_: nn.Module, __: tuple[Any, ...], scores: Tensor) -> Tensor:
            taken.append(scores)
            return scores.new_zeros(()).expand(*rows.pop(), scores.shape[-1])

        def hand_out(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            output.logits = taken.pop()
            return output

        with ExitStack() as hooks:
            for hook in (
                self._score.register_forward_pre_hook(choose, prepend=True),
                self._score.register_forward_hook(take),
                self._owner.register_forward_hook(hand_out, prepend=True),
            ):
                hooks.callback(hook.remove)
            yield
