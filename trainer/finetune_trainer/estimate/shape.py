"""What of a model's architecture decides about memory and work: sizes, and the matrices of a layer; no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from finetune_trainer.spec.method import ALL_LINEAR
from finetune_trainer.spec.names import named

HEAD = "lm_head"
EMBEDDING = "model.embed_tokens.weight"
_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


@dataclass(frozen=True)
class Linear:
    """A matrix of a layer, named as transformers names it; `copies` of it are fused in a layer's experts."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1

    @property
    def parameters(self) -> int:
        """Elements, with the bias."""
        return self.copies * (self.inputs * self.outputs + self.outputs * self.bias)


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer with gated feed-forward layers, as the Llama, Qwen, Mistral, Gemma and Phi families.

    `sparse_layers` of its `layers` have `experts` experts, of which a token uses `experts_per_token`. `norms` counts
    the norms on the residual stream of a layer; `wide_norms` multiply by their weight in float32, as Gemma's do;
    `eager` says that attention is not fused; `soft_capped` that logits pass through a tanh.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    wide_norms: bool = False
    fused_projections: bool = False
    soft_capped: bool = False
    eager: bool = False
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    sparse_layers: int = 0

    @property
    def query(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of the keys, and of the values, of all heads."""
        return self.kv_heads * self.head_dim

    @property
    def attention(self) -> tuple[Linear, ...]:
        """The matrices of a layer's attention."""
        hidden, bias = self.hidden, self.qkv_bias
        out = Linear("self_attn.o_proj", self.query, hidden, self.output_bias)
        if self.fused_projections:
            return (Linear("self_attn.qkv_proj", hidden, self.query + 2 * self.key, bias), out)
        return (
            Linear("self_attn.q_proj", hidden, self.query, bias),
            Linear("self_attn.k_proj", hidden, self.key, bias),
            Linear("self_attn.v_proj", hidden, self.key, bias),
            out,
        )

    @property
    def dense(self) -> tuple[Linear, ...]:
        """The matrices of a feed-forward layer without experts."""
        hidden, inner, bias = self.hidden, self.intermediate, self.mlp_bias
        down = Linear("mlp.down_proj", inner, hidden, bias)
        if self.fused_projections:
            return (Linear("mlp.gate_up_proj", hidden, 2 * inner, bias), down)
        return (Linear("mlp.gate_proj", hidden, inner, bias), Linear("mlp.up_proj", hidden, inner, bias), down)

    @property
    def sparse(self) -> tuple[Linear, ...]:
        """The fused matrices of a layer's experts, as transformers 5 holds them."""
        inner, copies = self.expert_intermediate, self.experts
        return (
            Linear("mlp.experts.gate_up_proj", self.hidden, 2 * inner, copies=copies),
            Linear("mlp.experts.down_proj", inner, self.hidden, copies=copies),
        )

    def linears(self) -> Iterator[tuple[str, Linear]]:
        """Every matrix of every layer with its full name; the last layers are those with experts."""
        for layer in range(self.layers):
            has_experts = layer >= self.layers - self.sparse_layers
            for linear in (*self.attention, *(self.sparse if has_experts else self.dense)):
                yield f"model.layers.{layer}.{linear.name}", linear

    @property
    def embedding(self) -> int:
        """Elements of the input embedding, and of the output embedding."""
        return self.vocabulary * self.hidden

    def weights(self, labels: int = 0) -> Iterator[tuple[str, int]]:
        """Every weight by its full name in transformers, with its elements; a classifier's, of that many `labels`."""
        yield EMBEDDING, self.embedding
        for name, linear in self.linears():
            if linear.copies > 1 or ".experts." in name:
                yield name, linear.parameters
                continue
            yield f"{name}.weight", linear.inputs * linear.outputs
            if linear.bias:
                yield f"{name}.bias", linear.outputs
        for layer in range(self.layers):
            yield from ((f"model.layers.{layer}.{name}.weight", size) for name, size in self._small(layer))
        yield "model.norm.weight", self.hidden
        if labels:
            yield "score.weight", labels * self.hidden
        elif not self.tied:
            yield f"{HEAD}.weight", self.embedding

    def _small(self, layer: int) -> Iterator[tuple[str, int]]:
        """Norms and router of a layer."""
        yield from ((name, self.hidden) for name in _NORMS[: self.norms])
        if self.qk_norm:
            yield from ((f"self_attn.{side}_norm", self.head_dim) for side in "qk")
        if layer >= self.layers - self.sparse_layers:
            yield "mlp.gate", self.experts * self.hidden

    @property
    def matrices(self) -> int:
        """Elements of all layers' matrices."""
        return sum(linear.parameters for _, linear in self.linears())

    @property
    def parameters(self) -> int:
        """Elements of all weights."""
        return sum(size for _, size in self.weights())

    @property
    def active_matrices(self) -> int:
        """Elements of the matrices that a token passes through, without embeddings."""
        idle = sum(linear.parameters for linear in self.sparse) if self.experts else 0
        share = 1 - self.experts_per_token / self.experts if self.experts else 0.0
        return self.matrices - int(self.sparse_layers * idle * share)

    @property
    def largest(self) -> int:
        """Elements of the largest single weight."""
        return max(self.embedding, *(linear.parameters for _, linear in self.linears()))

    def adapted(self, patterns: Sequence[str]) -> list[tuple[str, Linear]]:
        """The matrices that LoRA's target modules name, by the rules of `model.targets`."""
        head = (HEAD, Linear(HEAD, self.hidden, self.vocabulary))
        found = {
            name: linear
            for pattern, (name, linear) in product(patterns, [*self.linears(), head])
            if (name != HEAD if pattern == ALL_LINEAR else named(name, pattern))
        }
        return list(found.items())
