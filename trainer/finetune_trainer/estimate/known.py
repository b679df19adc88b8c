"""Sizes of public models by their name on the hub, so that a manifest alone says enough; from their config.json."""

from __future__ import annotations

from finetune_trainer.estimate.config import read_shape
from finetune_trainer.estimate.shape import ModelShape

_NAMES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
)
TIED, UNTIED = True, False

# names, model type, hidden, layers, heads, key-value heads, head size, feed-forward size, vocabulary, tied
_ROWS: tuple[tuple[str, str, tuple[int, int, int, int, int, int, int], bool], ...] = (
    ("meta-llama/Llama-2-7b-hf Llama-2-7b-chat-hf", "llama", (4096, 32, 32, 32, 128, 11008, 32000), UNTIED),
    ("meta-llama/Llama-2-13b-hf Llama-2-13b-chat-hf", "llama", (5120, 40, 40, 40, 128, 13824, 32000), UNTIED),
    ("meta-llama/Llama-2-70b-hf Llama-2-70b-chat-hf", "llama", (8192, 80, 64, 8, 128, 28672, 32000), UNTIED),
    (
        "meta-llama/Llama-3.1-8B Llama-3.1-8B-Instruct Meta-Llama-3-8B Meta-Llama-3-8B-Instruct Meta-Llama-3.1-8B "
        "Meta-Llama-3.1-8B-Instruct",
        "llama",
        (4096, 32, 32, 8, 128, 14336, 128256),
        UNTIED,
    ),
    (
        "meta-llama/Llama-3.1-70B Llama-3.1-70B-Instruct Llama-3.3-70B-Instruct Meta-Llama-3-70B "
        "Meta-Llama-3-70B-Instruct Meta-Llama-3.1-70B Meta-Llama-3.1-70B-Instruct",
        "llama",
        (8192, 80, 64, 8, 128, 28672, 128256),
        UNTIED,
    ),
    ("meta-llama/Llama-3.1-405B Llama-3.1-405B-Instruct", "llama", (16384, 126, 128, 8, 128, 53248, 128256), UNTIED),
    ("meta-llama/Llama-3.2-1B Llama-3.2-1B-Instruct", "llama", (2048, 16, 32, 8, 64, 8192, 128256), TIED),
    ("meta-llama/Llama-3.2-3B Llama-3.2-3B-Instruct", "llama", (3072, 28, 24, 8, 128, 8192, 128256), TIED),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama", (2048, 22, 32, 4, 64, 5632, 32000), UNTIED),
    ("HuggingFaceTB/SmolLM2-135M SmolLM2-135M-Instruct", "llama", (576, 30, 9, 3, 64, 1536, 49152), TIED),
    ("HuggingFaceTB/SmolLM2-360M SmolLM2-360M-Instruct", "llama", (960, 32, 15, 5, 64, 2560, 49152), TIED),
    ("HuggingFaceTB/SmolLM2-1.7B SmolLM2-1.7B-Instruct", "llama", (2048, 24, 32, 32, 64, 8192, 49152), TIED),
    ("Qwen/Qwen2.5-0.5B Qwen2.5-0.5B-Instruct", "qwen2", (896, 24, 14, 2, 64, 4864, 151936), TIED),
    ("Qwen/Qwen2.5-1.5B Qwen2.5-1.5B-Instruct", "qwen2", (1536, 28, 12, 2, 128, 8960, 151936), TIED),
    ("Qwen/Qwen2.5-3B Qwen2.5-3B-Instruct", "qwen2", (2048, 36, 16, 2, 128, 11008, 151936), TIED),
    ("Qwen/Qwen2.5-7B Qwen2.5-7B-Instruct", "qwen2", (3584, 28, 28, 4, 128, 18944, 152064), UNTIED),
    ("Qwen/Qwen2.5-14B Qwen2.5-14B-Instruct", "qwen2", (5120, 48, 40, 8, 128, 13824, 152064), UNTIED),
    ("Qwen/Qwen2.5-32B Qwen2.5-32B-Instruct", "qwen2", (5120, 64, 40, 8, 128, 27648, 152064), UNTIED),
    ("Qwen/Qwen2.5-72B Qwen2.5-72B-Instruct", "qwen2", (8192, 80, 64, 8, 128, 29568, 152064), UNTIED),
    ("Qwen/Qwen3-0.6B Qwen3-0.6B-Base", "qwen3", (1024, 28, 16, 8, 128, 3072, 151936), TIED),
    ("Qwen/Qwen3-1.7B Qwen3-1.7B-Base", "qwen3", (2048, 28, 16, 8, 128, 6144, 151936), TIED),
    (
        "Qwen/Qwen3-4B Qwen3-4B-Base Qwen3-4B-Instruct-2507 Qwen3-4B-Thinking-2507",
        "qwen3",
        (2560, 36, 32, 8, 128, 9728, 151936),
        TIED,
    ),
    ("Qwen/Qwen3-8B Qwen3-8B-Base", "qwen3", (4096, 36, 32, 8, 128, 12288, 151936), UNTIED),
    ("Qwen/Qwen3-14B Qwen3-14B-Base", "qwen3", (5120, 40, 40, 8, 128, 17408, 151936), UNTIED),
    ("Qwen/Qwen3-32B", "qwen3", (5120, 64, 64, 8, 128, 25600, 151936), UNTIED),
    (
        "mistralai/Mistral-7B-v0.1 Mistral-7B-Instruct-v0.1 Mistral-7B-Instruct-v0.2",
        "mistral",
        (4096, 32, 32, 8, 128, 14336, 32000),
        UNTIED,
    ),
    (
        "mistralai/Mistral-7B-v0.3 Mistral-7B-Instruct-v0.3",
        "mistral",
        (4096, 32, 32, 8, 128, 14336, 32768),
        UNTIED,
    ),
    (
        "mistralai/Mistral-Nemo-Base-2407 Mistral-Nemo-Instruct-2407",
        "mistral",
        (5120, 40, 32, 8, 128, 14336, 131072),
        UNTIED,
    ),
    (
        "mistralai/Mistral-Small-24B-Base-2501 Mistral-Small-24B-Instruct-2501",
        "mistral",
        (5120, 40, 32, 8, 128, 32768, 131072),
        UNTIED,
    ),
    ("google/gemma-2b gemma-2b-it", "gemma", (2048, 18, 8, 1, 256, 16384, 256000), TIED),
    ("google/gemma-7b gemma-7b-it", "gemma", (3072, 28, 16, 16, 256, 24576, 256000), TIED),
    ("google/gemma-2-2b gemma-2-2b-it", "gemma2", (2304, 26, 8, 4, 256, 9216, 256000), TIED),
    ("google/gemma-2-9b gemma-2-9b-it", "gemma2", (3584, 42, 16, 8, 256, 14336, 256000), TIED),
    ("google/gemma-2-27b gemma-2-27b-it", "gemma2", (4608, 46, 32, 16, 128, 36864, 256000), TIED),
    ("google/gemma-3-1b-pt gemma-3-1b-it", "gemma3_text", (1152, 26, 4, 1, 256, 6912, 262144), TIED),
    (
        "microsoft/Phi-3-mini-4k-instruct Phi-3-mini-128k-instruct Phi-3.5-mini-instruct",
        "phi3",
        (3072, 32, 32, 32, 96, 8192, 32064),
        UNTIED,
    ),
    ("microsoft/phi-4", "phi3", (5120, 40, 40, 10, 128, 17920, 100352), UNTIED),
    ("microsoft/Phi-4-mini-instruct", "phi3", (3072, 32, 24, 8, 128, 8192, 200064), TIED),
)
_EXPERTS = {
    "mistralai/Mixtral-8x7B-v0.1": ("mixtral", (4096, 32, 32, 8, 128, 14336, 32000), (8, 2, 14336)),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ("mixtral", (4096, 32, 32, 8, 128, 14336, 32000), (8, 2, 14336)),
    "Qwen/Qwen3-30B-A3B": ("qwen3_moe", (2048, 48, 32, 4, 128, 6144, 151936), (128, 8, 768)),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": ("qwen3_moe", (2048, 48, 32, 4, 128, 6144, 151936), (128, 8, 768)),
    "Qwen/Qwen3-235B-A22B": ("qwen3_moe", (4096, 94, 64, 4, 128, 12288, 151936), (128, 8, 1536)),
}
"""Of each also: experts, experts of a token, size of an expert."""


def _table() -> dict[str, dict[str, object]]:
    table: dict[str, dict[str, object]] = {}
    for names, kind, sizes, tied in _ROWS:
        organisation, _, models = names.partition("/")
        config = {"model_type": kind, "tie_word_embeddings": tied, **dict(zip(_NAMES, sizes, strict=True))}
        table |= {f"{organisation}/{model}".lower(): config for model in models.split()}
    for name, (kind, sizes, (experts, used, inner)) in _EXPERTS.items():
        table[name.lower()] = {
            "model_type": kind,
            **dict(zip(_NAMES, sizes, strict=True)),
            "num_local_experts": experts,
            "num_experts_per_tok": used,
            "moe_intermediate_size": inner,
        }
    return table


KNOWN = _table()
"""The configuration of each known model, by its name in lower case."""


def known_shape(uri: str) -> ModelShape | None:
    """The shape of the model at an `hf://` address; None where it is not in the table, or the address is another."""
    name = uri.removeprefix("hf://").partition("@")[0].lower()
    config = KNOWN.get(name) if uri.startswith("hf://") else None
    return None if config is None else read_shape(config)
