"""Under ZeRO-3 no rank holds the whole model while it is loaded, and what was loaded are the file's weights."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_models
from ranks import run_ranks

TARGET = "tests/trainer/model/ranks_load.py:load"
KINDS = {"llama": "float32", "llama-tied": "bfloat16", "mixtral": "float32", "qwen3-moe": "bfloat16"}
MISFITS: list[dict[str, int | bool]] = [{"num_hidden_layers": 3}, {"intermediate_size": 40}, {"attention_bias": True}]


@pytest.mark.timeout(240)
def test_each_rank_holds_its_part_of_the_files_weights_and_refuses_others(tmp_path: Path) -> None:
    good = [(str(tiny_models.save(kind, tmp_path / kind, shard_size="30KB")), dtype) for kind, dtype in KINDS.items()]
    bad = [tiny_models.save("llama", tmp_path / f"misfit-{number}") for number in range(len(MISFITS))]
    for path, options in zip(bad, MISFITS, strict=True):
        tiny_models.build("llama", **options).config.save_pretrained(path)
    for rank in run_ranks(2, TARGET, {"good": good, "bad": [str(path) for path in bad], "adopt": True}, timeout=180):
        for (_, dtype), result in zip(good, rank["good"], strict=True):
            assert result["different"] == []
            assert result["count"] > 15
            assert result["held"] == result["whole"] // 2
            assert result["buffers"] == ["torch.float32"]
            assert result["logits"] <= {"float32": 1e-5, "bfloat16": 0.05}[dtype]
        for path, error in zip(bad, rank["bad"], strict=True):
            assert error.startswith(f"spec.model.uri: {path} holds other weights than LlamaForCausalLM has: ")


@pytest.mark.timeout(240)
def test_no_rank_ever_holds_the_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # glibc returns freed tensors at once: what is held is seen
    options = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10, "vocab_size": 8192}
    path = tiny_models.save("llama", tmp_path, shard_size="40MB", **options)
    for rank in run_ranks(
        2, TARGET, {"good": [(str(path), "float32")], "bad": [], "adopt": False}, timeout=180, fresh=True
    ):
        (result,) = rank["good"]
        assert result["whole"] > 160e6
        assert result["different"] == []
        assert result["held"] <= result["peak"] < 0.75 * result["whole"]
