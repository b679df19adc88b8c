"""Frozen weights in 4 bits, through bitsandbytes, which is installed with the extra `qlora`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.model.targets import fused_experts
from finetune_trainer.spec.method import QLoRA


def quantization(qlora: QLoRA, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `load_model` takes to hold linear layers in 4 bits on `device`, and compute with them in `dtype`.

    The output embedding stays as it is, as in QLoRA (arXiv:2305.14314) and transformers.
    """
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=str(qlora.quant_type).lower(),
        bnb_4bit_use_double_quant=qlora.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def settle(model: nn.Module) -> None:
    """Keep weights of 4 bits as they are, in training and evaluation alike.

    bitsandbytes packs them anew for some CPUs once they are used without gradient, and rounds their scales. SpecError
    when the bulk of the weights is none of a linear layer's, and has 16 or 32 bits still.
    """
    if experts := fused_experts(model):
        message = f"cannot quantise {experts[0]} and the other fused experts, most of this model: write LoRA"
        raise SpecError([Problem("spec.method.type", "QLoRA", message)])
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (no name that nn.Module declares)
