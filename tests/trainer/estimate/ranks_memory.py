"""What each rank does to measure memory: the product's engine trains on random rows, and an allocator is watched.

On a CPU it is torch's own: its count of allocated bytes covers all threads and all that kernels take inside. It is read
from the allocation events of torch's profiler, which come at each change of it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from finetune_trainer.context import process_group_backend

SHORT = 64  # tokens of a pair's shorter document, in a line as long as the other's
STEPS = 2  # the optimizer's state comes in the first


def measure(payload: dict[str, Any]) -> dict[str, Any]:
    """Peak of allocated bytes on this rank for each of `payload["cases"]`: a manifest `job`, a folder `model`, rows of
    `documents`. Between two cases nothing is left.
    """
    device = torch.device(payload["device"])
    os.environ["DS_ACCELERATOR"] = device.type
    dist.init_process_group(process_group_backend(device.type == "cuda"), timeout=timedelta(seconds=60))
    from finetune_trainer.engine.start import init_communication

    init_communication(device)
    memory = _Gpu() if device.type == "cuda" else _Cpu()
    return {name: _measure(case, device, memory) for name, case in payload["cases"].items()}


def make_models(payload: dict[str, Any]) -> dict[str, Any]:
    """Save each of `payload["models"]`, kind and options by folder: random weights in bfloat16, made on the GPU."""
    import transformers

    import tiny_models

    make: Any = transformers.AutoModelForCausalLM.from_config
    for folder, (kind, options) in payload["models"].items():
        with torch.device("cuda"):
            make(tiny_models.CONFIGS[kind](**options), dtype=torch.bfloat16).save_pretrained(folder)
    return {}


def measure_large(payload: dict[str, Any]) -> dict[str, int]:
    """Of the one case `payload`, on a GPU: the fields of `memory_large.Measured`."""
    device = torch.device("cuda", 0)
    os.environ["DS_ACCELERATOR"] = "cuda"
    torch.cuda.set_device(device)
    dist.init_process_group(process_group_backend(True), timeout=timedelta(seconds=60))
    from finetune_trainer.engine.start import init_communication

    init_communication(device)
    _measure(payload, device, _Gpu())
    free, total = torch.cuda.mem_get_info(device)
    outside = total - free - torch.cuda.memory_reserved()  # of other processes too
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "outside": outside,
    }


def _measure(case: dict[str, Any], device: torch.device, memory: _Gpu | _Cpu) -> int:
    from finetune_trainer.engine.collectives import ControlGroup
    from finetune_trainer.spec import parse_job

    gc.collect()
    job, control = parse_job(json.dumps(case["job"])), ControlGroup.create(60)
    before = memory.allocated()
    model = _load(job, Path(case["model"]), control.world_size, device)
    with memory.peak() as peak:  # not of the load, which maps the file
        engine = _train(job, model, case["documents"], control, device)
        engine.destroy()
    del model, engine
    gc.collect()
    return peak[0] - before


def _train(job: Any, model: Any, documents: int, control: Any, device: torch.device) -> Any:
    from finetune_trainer.engine.batch import Forward
    from finetune_trainer.engine.config import micro_batch_size, micro_batches_per_step
    from finetune_trainer.engine.start import start_engine
    from finetune_trainer.engine.step import train_step
    from finetune_trainer.model.head import KeptPositions
    from finetune_trainer.model.lora import apply_lora
    from finetune_trainer.model.partial import freeze
    from finetune_trainer.objectives import Setting, objective_of
    from finetune_trainer.spec import ObjectiveType, Packing

    vocabulary, capped = model.config.vocab_size, getattr(model.config, "final_logit_softcapping", None) is not None
    if job.spec.method.lora is not None:
        tokens = [1 + number for number, _ in enumerate(job.spec.model.added_tokens)]
        model, _ = apply_lora(model, job.spec.method.lora, seed=0, tokens=tokens)
    if job.spec.method.full is not None:
        freeze(model, job.spec.method.full)
    head = KeptPositions(model)
    engine = start_engine(job, model, control.world_size, device)
    forward = Forward(head, device, 0, reuse_logits=not capped, alone=job.spec.data.packing is Packing.NONE)
    micro, count = micro_batch_size(job, control.world_size), micro_batches_per_step(job, control.world_size)
    pairs = job.spec.objective.type != ObjectiveType.SFT
    length = job.spec.data.max_length
    rows = _rows([length - SHORT, SHORT] if pairs else [length // documents] * documents, vocabulary)
    objective = objective_of(Setting(job, forward, control, lambda: None, {}, [next(rows)], list))
    objective.begin(engine, True, lambda: None)
    for _ in range(STEPS):
        batches = [[next(rows) for _ in range(micro)] for _ in range(count)]
        everywhere = list(chain.from_iterable(batches)) * control.world_size
        train_step(
            engine,
            objective,
            batches,
            global_batch=everywhere,
            learning_rate=1e-4,
            max_grad_norm=1.0,
            control=control,
        )
    return engine


def _load(job: Any, folder: Path, world_size: int, device: torch.device) -> torch.nn.Module:
    """The model, its weights in memory of the allocator: as loaded for a CPU they are pages of the file."""
    from finetune_trainer.engine.config import deepspeed_config
    from finetune_trainer.estimate import use_gradient_checkpointing
    from finetune_trainer.model.load import load_model
    from finetune_trainer.model.quantize import quantization, settle
    from finetune_trainer.spec import Precision

    on_gpu, training = device.type == "cuda", job.spec.training
    dtype = torch.bfloat16 if training.precision == Precision.BF16 else torch.float32
    qlora = job.spec.method.qlora
    model = load_model(
        folder,
        dtype=dtype,
        zero_stage=job.spec.deepspeed.zero_stage,
        ds_config=deepspeed_config(job, world_size, on_gpu=on_gpu),
        gradient_checkpointing=use_gradient_checkpointing(training.gradient_checkpointing, on_gpu=on_gpu),
        quantization=quantization(qlora, dtype, device) if qlora is not None else None,
    )
    if qlora is not None:
        settle(model)
    if job.spec.deepspeed.zero_stage < 3 and not on_gpu:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    gc.collect()
    return model


def _rows(lengths: Sequence[int], vocabulary: int) -> Iterator[Any]:
    """Random rows of one document of each length."""
    from made_rows import row_of

    generator = np.random.default_rng(dist.get_rank())
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    while True:
        ids = generator.integers(0, vocabulary, len(positions)).astype(np.int32)
        labels = np.where(positions == 0, -100, ids)
        yield row_of(ids, labels, positions, records=tuple(f"#{number}" for number, _ in enumerate(lengths)))


class _Cpu:
    """torch's count of the bytes that its CPU allocator has given out, over all threads."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        ctypes.c_bool.in_dll(library, "FLAGS_caffe2_report_cpu_memory_usage").value = True  # whatever thread allocates

    def allocated(self) -> int:
        """Bytes that are allocated now."""
        with self.peak() as found:
            torch.empty(1)
        return found[0]

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """Yields a list whose only element is the peak, afterwards."""
        found: list[int] = []
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            yield found
        found.append(max(_totals(profiler)))


def _totals(profiler: Any) -> Iterator[int]:
    """What was allocated in all after each allocation and release."""
    events = list(profiler.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            yield event.extra_fields.total_allocated


class _Gpu:
    """torch's count of the bytes that its CUDA allocator has given out."""

    def allocated(self) -> int:
        """Bytes that are allocated now."""
        return int(torch.cuda.memory_allocated())

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """Yields a list whose only element is the peak, afterwards."""
        found: list[int] = []
        torch.cuda.reset_peak_memory_stats()
        yield found
        found.append(int(torch.cuda.max_memory_allocated()))
