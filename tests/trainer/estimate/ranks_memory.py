"""What each rank does to measure memory: the product's engine trains a Llama under torch's allocation profiler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

DEVICE = torch.device("cpu")


def measure(payload: dict[str, Any]) -> dict[str, Any]:
    import ctypes
    from pathlib import Path
    lib = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    ctypes.c_bool.in_dll(lib, "FLAGS_caffe2_report_cpu_memory_usage").value = True
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    from finetune_trainer.engine.start import init_communication

    init_communication(DEVICE)
    return {name: _measure(case) for name, case in payload["cases"].items()}


def _measure(case: dict[str, Any]) -> dict[str, Any]:
    from finetune_trainer.build import use_gradient_checkpointing
    from finetune_trainer.data import Row
    from finetune_trainer.engine.batch import Forward
    from finetune_trainer.engine.collectives import ControlGroup
    from finetune_trainer.engine.config import deepspeed_config, micro_batch_size, micro_batches_per_step
    from finetune_trainer.engine.start import start_engine
    from finetune_trainer.engine.step import train_step
    from finetune_trainer.model.head import KeptPositions
    from finetune_trainer.model.load import load_model
    from finetune_trainer.model.lora import apply_lora
    from finetune_trainer.spec import parse_job
    import json
    from pathlib import Path

    job = parse_job(json.dumps(case["job"]))
    control = ControlGroup.create(60)
    spec = job.spec
    marks = []
    import gc

    gc.collect()
    base = allocated()
    model = load_model(
        Path(case["model"]),
        dtype=torch.bfloat16 if spec.training.precision == "BF16" else torch.float32,
        zero_stage=spec.deepspeed.zero_stage,
        ds_config=deepspeed_config(job, control.world_size, on_gpu=False),
        gradient_checkpointing=use_gradient_checkpointing(spec.training.gradient_checkpointing, on_gpu=False),
    )
    if spec.deepspeed.zero_stage < 3:
        for p in model.parameters():
            p.data = p.data.clone()
        del p
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=False) as prof:
        if spec.method.lora is not None:
            model, _ = apply_lora(model, spec.method.lora, seed=0)
        marks.append(("adapted", time.time_ns()))
        head = KeptPositions(model)
        engine = start_engine(job, model, control.world_size, DEVICE)
        marks.append(("engine", time.time_ns()))
        forward = Forward(head, DEVICE, 0, reuse_logits=True)
        micro, count = micro_batch_size(job, control.world_size), micro_batches_per_step(job, control.world_size)
        length = spec.data.max_length
        gen = np.random.default_rng(control.rank)

        def row():
            ids = gen.integers(0, case["vocab"], length).astype(np.int32)
            return Row(ids, ids.copy(), np.concatenate([np.arange(length//case.get('docs',1), dtype=np.int32)]*case.get('docs',1)), records=())

        for step in range(2):
            batches = [[row() for _ in range(micro)] for _ in range(count)]
            from finetune_trainer.engine.step import Hooks
            number = 0

            def marked(engine, rows):
                nonlocal number
                number += 1
                marks.append((f"before{step}.{number}", time.time_ns()))
                loss = forward(engine, rows)
                marks.append((f"loss{step}.{number}", time.time_ns()))
                return loss

            marked.device = DEVICE
            train_step(engine, marked, batches, hooks=Hooks(before_update=lambda: marks.append((f"backward{step}", time.time_ns()))), kept_tokens=(length - 1) * micro * count * control.world_size,
                       learning_rate=1e-4, max_grad_norm=1.0, control=control)
            marks.append((f"step{step}", time.time_ns()))
    engine.destroy()
    optimizer = engine.optimizer
    result = {**timeline(prof, marks, base), "params": sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters()), "trainable": sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters() if p.requires_grad)}
    del model, engine, optimizer, forward, head, marked
    gc.collect()
    return result


def allocated() -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        torch.empty(16)
    tree = list(prof.profiler.kineto_results.experimental_event_tree())
    while tree:
        e = tree.pop()
        tree.extend(e.children)
        if e.tag == torch._C._profiler._EventType.Allocation and e.extra_fields.alloc_size > 0:
            return e.extra_fields.total_allocated - e.extra_fields.alloc_size


def timeline(prof, marks, base):
    from collections import Counter
    tree = prof.profiler.kineto_results.experimental_event_tree()
    stack = list(tree)
    found = []
    while stack:
        e = stack.pop()
        stack.extend(e.children)
        if e.tag == torch._C._profiler._EventType.Allocation:
            x = e.extra_fields
            p = e.parent
            names = []
            while p is not None:
                names.append(p.name)
                p = p.parent
            names = [n for n in names if n not in ("aten::empty", "aten::empty_strided", "aten::empty_like") and "evaluate_function" not in n]
            found.append((e.start_time_ns, x.alloc_size, x.ptr, "/".join(names[:2][::-1]), x.total_allocated))
    found.sort(key=lambda f: f[0])
    out = {}
    total = 0
    live = {}
    i = 0
    for name, at in marks:
        peak, snap, peak_at = 0, None, 0
        while i < len(found) and found[i][0] <= at:
            _, size, ptr, op, total = found[i]
            total -= base
            if size > 0:
                live[ptr] = (size, op)
            elif ptr in live:
                live.pop(ptr)
            if total >= peak:
                peak, peak_at = total, i
                if name in ("loaded", "cloned", "before1.1", "step1", "backward1", "loss1.2"):
                    snap = list(live.values())
            i += 1
        out[name] = {"peak": peak, "end": total, "where": found[peak_at][3] if peak else None}
        if snap:
            c = Counter()
            n = Counter()
            for size, op in snap:
                c[(op, size)] += size
                n[(op, size)] += 1
            out[name]["live"] = [[op, size, n[(op, size)]] for (op, size), v in c.most_common(28)]
    return {"phases": out}
