"""Whether merged weights say what the base model with its adapter says."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedConfig

from finetune_trainer.export.adapter import ADAPTER
from finetune_trainer.export.deltas import CannotMerge
from finetune_trainer.model.folder import indexed_weights
from finetune_trainer.model.keys import captured_report, published_class, read_headers, without_zero3
from finetune_trainer.model.load import load_config

ROWS, TOKENS = 8, 32  # a classifier says one thing of each row
# Root mean square of the difference of logits over that of the logits. Rounding a weight to bfloat16 moves it by up to
# 2**-9, about 1e-3 on average, and the layers' errors add up like a random walk: 1e-2 after 64 blocks.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def check_merged(model_path: Path, adapter: Path, merged: Path) -> dict[str, Any]:
    """Run base with adapter and merged model, both in float32 on the CPU, over some random rows; rank 0 only.

    Returns JSON: the relative difference of their logits, how far the adapter moves them, and the tolerance for the
    dtype of the merged files; or why there was no check, where the host has no memory for one whole float32 model.
    Raises CannotMerge beyond the tolerance.
    """
    headers = read_headers([model_path / name for name in indexed_weights(model_path, str(model_path))])
    needed = int(4.5 * sum(header.numel() for header in headers.values()))
    available = psutil.virtual_memory().available
    if needed > available:
        return {"checked": False, "reason": f"it takes {needed} bytes of memory, {available} are available"}
    config = load_config(merged)
    names = read_headers([merged / name for name in indexed_weights(merged, str(merged))])
    model_class = published_class(config, names, str(merged))
    with without_zero3(), captured_report(), torch.random.fork_rng(devices=[]):
        base, tuned = _logits(model_class, config, model_path, adapter)
        (found,) = _logits(model_class, config, merged)
    difference, effect = _distance(found, tuned), _distance(base, tuned)
    dtype = config.dtype
    assert isinstance(dtype, torch.dtype)  # `config.write_config` has written it
    tolerance = TOLERANCE[dtype]
    if not difference <= tolerance:
        raise CannotMerge(
            f"merged weights give other logits than the adapter: they differ by {difference:.2e} of their size, "
            f"{tolerance:.0e} is allowed, and the adapter itself moves them by {effect:.2e}. Write spec.output.format: "
            "Adapter and run the job again, it exports without training again; and report this model, please"
        )
    return {"checked": True, "relativeDifference": difference, "adapterEffect": effect, "tolerance": tolerance}


@torch.no_grad()
def _logits(model_class: Any, config: PreTrainedConfig, path: Path, adapter: Path | None = None) -> list[Tensor]:
    """Float64 logits of the model, then those with the adapter, if there is one, for the same tokens.

    Tokens that were added to a vocabulary, which `config` has, have random embeddings until the adapter brings them.
    """
    own, size = load_config(path).get_text_config().vocab_size, config.get_text_config().vocab_size
    config = deepcopy(config)
    config.get_text_config().vocab_size = own
    model = model_class.from_pretrained(
        path, config=config, dtype=torch.float32, local_files_only=True, use_safetensors=True
    ).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(size, (ROWS, TOKENS), generator=generator)
    if size > own:
        model.resize_token_embeddings(size, mean_resizing=False)
    found = [model(input_ids=tokens, use_cache=False).logits.double()]
    if adapter is not None:
        tuned: Any = PeftModel.from_pretrained(model, str(adapter), ADAPTER, torch_device="cpu").eval()
        found.append(tuned(input_ids=tokens, use_cache=False).logits.double())
    return found


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean().sqrt() / other.square().mean().sqrt())
