"""Known accelerators: memory, speed of bfloat16 matrix products, bandwidth; from the makers' data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """An accelerator: `memory` in bytes as its driver reports it, about; dense `teraflops` in bfloat16; `bandwidth` of
    its memory in bytes per second. No teraflops: it cannot compute in bfloat16."""

    name: str
    memory: int
    teraflops: float
    bandwidth: float


def _gpu(name: str, gib: float, teraflops: float, gigabytes_per_second: float) -> Gpu:
    return Gpu(name, int(gib * GIB), teraflops, gigabytes_per_second * 1e9)


GPUS: tuple[Gpu, ...] = (
    _gpu("B200", 178, 2250, 8000),
    _gpu("GH200", 95, 989, 4000),
    _gpu("H200", 140, 989, 4800),
    _gpu("H100-PCIe", 79, 756, 2000),
    _gpu("H100", 79, 989, 3350),
    _gpu("H20", 95, 148, 4000),
    _gpu("A100-80GB", 79, 312, 2039),
    _gpu("A100-40GB", 39, 312, 1555),
    _gpu("L40S", 44, 362, 864),
    _gpu("L40", 44, 181, 864),
    _gpu("A40", 44, 150, 696),
    _gpu("RTX-6000-Ada", 47, 364, 960),
    _gpu("RTX-A6000", 47, 155, 768),
    _gpu("L4", 22, 121, 300),
    _gpu("A10G", 22, 70, 600),
    _gpu("A10", 22, 125, 600),
    _gpu("A30", 23.5, 165, 933),
    _gpu("RTX-5090", 31, 210, 1792),
    _gpu("RTX-4090", 23.5, 165, 1008),
    _gpu("RTX-3090", 23.5, 71, 936),
    _gpu("V100-32GB", 31, 0, 900),
    _gpu("V100-16GB", 15.5, 0, 900),
    _gpu("T4", 14.5, 0, 300),
    _gpu("MI300X", 191, 1307, 5300),
)
"""More particular names first: the first one whose words are all in a product's name is it."""


def find_gpu(product: str) -> Gpu | None:
    """The accelerator that a product is called after, in the words of nvidia-smi, of the node label
    `nvidia.com/gpu.product` (NVIDIA-H100-80GB-HBM3) or of its maker; None for others."""
    found = _words(product)
    exact = [gpu for gpu in GPUS if _words(gpu.name) <= found]
    shorter = [gpu for gpu in GPUS if _words(gpu.name) >= found]  # A100 without its memory: the larger one
    return next(iter(exact or shorter), None)


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower())) - {""}
