"""Whether a job fits into its devices, surely does not, or may not; and which changes would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from finetune_trainer.estimate.activations import Activations
from finetune_trainer.estimate.host import node_memory
from finetune_trainer.estimate.memory import Peak, held, peak
from finetune_trainer.estimate.setup import Setup
from finetune_trainer.estimate.shape import ModelShape
from finetune_trainer.estimate.state import Place, count, update
from finetune_trainer.spec import LoRA, MethodType
from finetune_trainer.spec.notyet import VALUES

CONTEXT = 1280 * 2**20
"""On a GPU outside of torch's allocator. Measured on an H200 (driver 580, torch 2.11, CUDA 13.0, one rank): 1,259 MiB,
of which 619 are CUDA's context, 82 the kernels of cuBLAS and attention, 558 NCCL's buffers."""

LEAST_CONTEXT = 384 * 2**20
"""What no GPU goes below; contexts grow with the number of its multiprocessors. An assumption."""

FRAGMENTATION = 0.05
"""Of the tensors, which torch's allocator needs beside them; an assumption. With memory to spare it reserved 9 to
32 % more than tensors took (docs/memory.md), and it gives unused blocks back before it runs out."""

MOST_MICRO_BATCH = 64
TARGET = 0.85
"""Share of a device's memory that an automatic micro-batch may be predicted to take."""


class Verdict(StrEnum):
    """What the estimate says about a device's memory."""

    FITS = "Fits"
    TIGHT = "Tight"
    """The estimate is more than there is, the least that training takes is not."""

    TOO_LARGE = "TooLarge"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Change:
    """A change of the manifest, in its words, and what a device and a node's host then take, in bytes."""

    text: str
    device: int
    host: int


def device_total(shape: ModelShape, setup: Setup) -> tuple[int, Peak]:
    """Bytes of a rank's device, with the context and fragmentation of a GPU, and the tensors' peak."""
    top = peak(shape, setup)
    return _with_overhead(top.size, setup), top


def least(model: ModelShape | int, setup: Setup) -> int:
    """Bytes below which no run of this setup gets: state that is held, and gradients at the update or, where that is
    more, the activations of its shortest rows' micro-batch: one row, one token kept.

    Of a model of which only the number of parameters is known, without activations.
    """
    counts = count(model, setup)
    state = sum(held(counts, replace(setup, micro_batches=1), Place.DEVICE).values())
    transient = sum(
        item.size for item in update(counts, setup) if item.place is Place.DEVICE and item.name != "buckets"
    )
    if isinstance(model, ModelShape):
        one = replace(setup, micro_batch=1, length=min(setup.length, 8), packed=False, kept=0.0)
        activations = Activations.of(model, one)
        transient = max(transient, activations.saved + activations.logits)
    return int(state + transient) + (LEAST_CONTEXT if setup.on_gpu else 0)


def judge(needed: int, at_least: int, memory: int | None) -> Verdict:
    """The verdict on `memory` bytes of a device."""
    if memory is None:
        return Verdict.UNKNOWN
    if at_least > memory:
        return Verdict.TOO_LARGE
    return Verdict.FITS if needed <= memory else Verdict.TIGHT


def choose_micro_batch(shape: ModelShape, setup: Setup, memory: int, global_batch: int) -> int:
    """The largest power of two of rows that divides the global batch, is no more than a rank has, and is predicted to
    fit well; 1 if none is. The same on every rank that is told the same memory.
    """
    rows, chosen = setup.micro_batch * setup.micro_batches, 1
    while global_batch % (chosen * 2) == 0 and chosen * 2 <= min(rows, MOST_MICRO_BATCH):
        if device_total(shape, setup.with_micro_batch(chosen * 2))[0] > TARGET * memory:
            break
        chosen *= 2
    return chosen


def changes(shape: ModelShape, setup: Setup, memory: int) -> list[Change]:
    """Changes of the manifest with which it fits, the least far-reaching first, each by the same estimate."""
    found = []
    for text, candidate in _candidates(setup):
        if candidate.method == MethodType.QLORA and shape.experts:  # fused experts stay in 16 bits
            continue
        total, top = device_total(shape, candidate)
        if total <= memory:
            host = sum(node_memory(count(shape, candidate), candidate, top.size).values())
            found.append(Change(text, total, host))
    return found


def _candidates(setup: Setup) -> Iterator[tuple[str, Setup]]:
    """One change at a time; then these together, each beside those before it."""
    alone = list(_single(setup))
    yield from alone
    together, texts = setup, dict[str, str]()
    for text, change in alone:
        if change.method != setup.method:
            continue
        together = replace(together, **{name: new for name, new in vars(change).items() if new != getattr(setup, name)})
        texts[text.partition(":")[0]] = text
        if len(texts) > 1:
            yield " and ".join(texts.values()), together


def _single(setup: Setup) -> Iterator[tuple[str, Setup]]:
    whole = setup.whole_weights or setup.method == MethodType.QLORA  # the rules refuse stage 3
    if setup.micro_batch > 1:
        yield "training.microBatchSize: 1", setup.with_micro_batch(1)
    if not setup.checkpointing:
        yield 'training.gradientCheckpointing: "On"', replace(setup, checkpointing=True)
    if setup.ranks > 1:
        for stage in range(setup.zero_stage + 1, 3 if whole else 4):
            yield f"deepspeed.zeroStage: {stage}", replace(setup, zero_stage=stage)
    if not setup.bf16:
        yield "training.precision: BF16", replace(setup, bf16=True)
    if setup.on_gpu and not setup.offload_optimizer:
        yield (
            "deepspeed.offloadOptimizer: CPU",
            replace(setup, offload_optimizer=True, zero_stage=max(setup.zero_stage, 1)),
        )
    if setup.on_gpu and not setup.offload_parameters and not whole:
        text = "deepspeed.offloadParameters: CPU" + ("" if setup.zero_stage == 3 else ", with zeroStage: 3")
        yield text, replace(setup, offload_parameters=True, zero_stage=3)
    if setup.method == MethodType.FULL:
        yield "method.type: LoRA", replace(setup, method=MethodType.LORA, lora=LoRA(), full=None)
    if setup.method != MethodType.QLORA and setup.on_gpu and MethodType.QLORA not in VALUES and not _takes(setup):
        yield (
            "method.type: QLoRA",
            replace(
                setup,
                method=MethodType.QLORA,
                lora=setup.lora or LoRA(),
                full=None,
                zero_stage=min(setup.zero_stage, 2),
                offload_parameters=False,
            ),
        )


def _takes(setup: Setup) -> bool:
    """Whether the adapters begin as a part of the weights, which QLoRA refuses."""
    return setup.lora is not None and setup.lora.takes_weights


def _with_overhead(size: int, setup: Setup) -> int:
    return int(size * (1 + FRAGMENTATION)) + CONTEXT if setup.on_gpu else size
