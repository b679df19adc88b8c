"""What a forward pass leaves for the backward pass, in bytes, layer by layer.

Counted off what autograd saves in transformers' modelling code (RMSNorm in float32, rotary embedding, fused attention,
gated feed-forward) and in our head and cross-entropy; checked against measurements (docs/memory.md).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from finetune_trainer.estimate.setup import Setup
from finetune_trainer.estimate.shape import Linear, ModelShape
from finetune_trainer.estimate.trained import Trained, live, trained
from finetune_trainer.spec import MethodType

CHUNK_ELEMENTS = {"cpu": 4 * 2**20, "cuda": 32 * 2**20}  # of `model.cross_entropy`, in float32


@dataclass(frozen=True)
class Activations:
    """Bytes on one rank and in one forward pass of a model under a setup."""

    shape: ModelShape
    setup: Setup
    trained: Trained

    @classmethod
    def of(cls, shape: ModelShape, setup: Setup) -> Self:
        """Of what trains under the setup: layers before the first one that does keep nothing."""
        return cls(live(shape, setup), setup, trained(shape, setup))

    @property
    def saved(self) -> float:
        """All that is held when the loss is known, without logits."""
        setup, shape = self.setup, self.shape
        if not setup.checkpointing:
            return self._layers + self._around
        inputs = shape.layers * self._hidden + (0 if self._full else self._hidden)
        mask = self.setup.rows * setup.length**2 if setup.packed else 0
        return inputs + mask + self._around

    @property
    def recomputed(self) -> float:
        """What the backward pass computes anew of one layer, with checkpointing."""
        trains = self.setup.checkpointing and self.shape.layers
        return max(self._dense_layer, self._sparse_layer) if trains else 0.0

    @property
    def backward(self) -> float:
        """Gradients of activations in the backward pass through one layer, at most."""
        setup, shape = self.setup, self.shape
        widest = max(
            shape.intermediate if shape.sparse_layers < shape.layers else 0,
            shape.experts_per_token * shape.expert_intermediate,
        )
        feed_forward = 2 * setup.tokens * setup.element * (widest + shape.hidden)
        norm = 0 if setup.checkpointing else 5 * 4 * setup.tokens * shape.hidden
        return max(feed_forward, norm, self._eager / 2, self._dora)

    @property
    def kept(self) -> int:
        """Positions with logits."""
        setup = self.setup
        return 0 if setup.scores else max(1, int(setup.micro_batch * setup.length * setup.kept))  # of a pair together

    @property
    def logits(self) -> float:
        """Logits and what holds their gradient, which overwrites them unless they were soft-capped."""
        return (3 if self.shape.soft_capped else 1) * self.setup.element * self.kept * self.shape.vocabulary

    @property
    def loss(self) -> float:
        """Float32 work space of the cross-entropy; on a CPU, bfloat16 logits are converted apart from it."""
        elements = CHUNK_ELEMENTS["cuda" if self.setup.on_gpu else "cpu"]
        rows = min(self.kept, max(1, elements // self.shape.vocabulary))
        return 4 * rows * self.shape.vocabulary * (2 if self.setup.bf16 and not self.setup.on_gpu else 1)

    @property
    def _full(self) -> bool:
        return self.setup.method == MethodType.FULL

    @cached_property
    def _norms_train(self) -> bool:
        return any("norm." in name for name in self.trained.names)

    @property
    def _hidden(self) -> float:
        return self.setup.element * self.setup.tokens * self.shape.hidden

    @property
    def _layers(self) -> float:
        sparse = self.shape.sparse_layers
        if not self.shape.layers:
            return 0.0
        trains = self.trained.embeds or self._norms_train
        first = 0 if trains else 4 * self.setup.tokens * self.shape.hidden  # nothing before it trains
        return (self.shape.layers - sparse) * self._dense_layer + sparse * self._sparse_layer - first

    @property
    def _around(self) -> float:
        """Embedding, rotary angles, last norm, and the hidden states that logits are made of."""
        setup, shape = self.setup, self.shape
        norm = 4 * setup.tokens * shape.hidden + (self._before_weight(shape.hidden) if self._norms_train else 0)
        angles = 2 * setup.element * setup.tokens * shape.head_dim
        return norm + angles + setup.element * self.kept * shape.hidden

    @cached_property
    def _dense_layer(self) -> float:
        return self._attention + self._feed_forward(self.shape.dense, 1, self.shape.intermediate)

    @cached_property
    def _sparse_layer(self) -> float:
        shape, tokens = self.shape, self.setup.tokens
        if not shape.experts:
            return 0.0
        used = shape.experts_per_token
        routed = 3 * 4 * tokens * shape.experts + 2 * self.setup.element * tokens * used * shape.hidden
        return self._attention + routed + self._feed_forward(shape.sparse, used, shape.expert_intermediate)

    @cached_property
    def _attention(self) -> float:
        setup, shape = self.setup, self.shape
        tokens, element = setup.tokens, setup.element
        spread = shape.query if setup.packed or shape.eager else shape.key  # keys are repeated where there is a mask
        total: float = element * tokens * (2 * shape.query + 2 * spread) + 4 * tokens * shape.heads
        if shape.eager:
            total += self._eager
        elif setup.packed:
            total += element * setup.rows * setup.length**2  # the mask as numbers
        if shape.fused_projections and not setup.packed:
            total += element * tokens * (shape.query + shape.key)  # values are a view of all three
        if shape.qk_norm:
            width = shape.query + shape.key
            total += 4 * tokens * width + (self._before_weight(width) if self._norms_train else 0)
        total += self._adapters(shape.attention)
        return total + self._norms(shape.attention[:-1])

    def _feed_forward(self, linears: tuple[Linear, ...], copies: int, inner: int) -> float:
        width = self.setup.element * self.setup.tokens * inner * copies
        product = width if self._reads(linears[-1:]) else 0.0
        return 3 * width + product + copies * self._adapters(linears) + self._output(linears[:-1])

    def _norms(self, readers: tuple[Linear, ...]) -> float:
        """Inputs of all norms of a layer in float32, and the output of the one before attention."""
        shape = self.shape
        inputs = shape.norms * 4 * self.setup.tokens * shape.hidden
        weights = shape.norms * self._before_weight(shape.hidden) if self._norms_train else 0.0
        return inputs + weights + self._output(readers)

    def _output(self, readers: tuple[Linear, ...]) -> float:
        return self._hidden if self._reads(readers) else 0.0

    def _before_weight(self, width: int) -> float:
        """A normed tensor, held for the gradient of the norm's weight."""
        return (4 if self.shape.wide_norms else self.setup.element) * self.setup.tokens * width

    @property
    def _eager(self) -> float:
        """Attention weights of all heads: scores through a tanh, softmax in float32, and what multiplies the values."""
        if not self.shape.eager:
            return 0.0
        return (4 + 3 * self.setup.element) * self.setup.rows * self.shape.heads * self.setup.length**2

    @property
    def _dora(self) -> float:
        """What DoRA's forward pass takes for a moment: the update of a whole matrix, made of the identity's, its sum
        with the matrix, and the squares that its norm is made of (peft 0.21, tuners/lora/dora.py)."""
        matrices = [one.linear for one in self.trained.adapters if one.dora]
        return self.setup.element * max((one.inputs * (one.inputs + 3 * one.outputs) for one in matrices), default=0)

    @cached_property
    def _read(self) -> frozenset[str]:
        """Matrices of a layer, as `Linear` names them, that keep their input: one of them trains, or has an adapter."""
        kinds = (name.partition("layers.")[2].partition(".")[2] for name in self.trained.names)
        return frozenset(kind.removesuffix(".weight") for kind in kinds)

    @cached_property
    def _ranks(self) -> dict[str, float]:
        """The mean rank of the adapters of each matrix of a layer."""
        ranks = defaultdict[str, list[int]](list)
        for one in self.trained.adapters:
            ranks[one.linear.name].append(one.rank)
        return {name: sum(found) / len(found) for name, found in ranks.items()}

    def _reads(self, linears: tuple[Linear, ...]) -> bool:
        return any(linear.name in self._read for linear in linears)

    def _adapters(self, linears: tuple[Linear, ...]) -> float:
        lora, tokens, element = self.setup.lora, self.setup.tokens, self.setup.element
        if lora is None:
            return 0.0
        adapted = [linear for linear in linears if linear.name in self._ranks]
        inner = sum(self._ranks[linear.name] for linear in adapted)
        dropped = sum((element + 1) * tokens * linear.inputs for linear in adapted) if lora.dropout else 0
        outputs = sum(2 * linear.outputs for linear in adapted) if lora.dora else 0  # the matrix's and the adapter's
        return element * tokens * (inner + outputs) + dropped
