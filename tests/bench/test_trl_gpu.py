"""The product against TRL's SFTTrainer on a GPU, in bf16 and with scaled_dot_product_attention on both sides."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.race import Race, race
from bench.report import Report
from bench.turns import contestant
from bench.workload import Workload

pytestmark = [pytest.mark.bench, pytest.mark.gpu, pytest.mark.alone]

OURS = "tests/bench/contestants.py:ours"
IDENTICAL, RAW = "tests/bench/gpu_contestants.py:identical", "tests/bench/gpu_contestants.py:raw"
METHODS: dict[str, dict[str, Any]] = {
    "full": {"type": "Full"},
    "lora": {"type": "LoRA", "lora": {"rank": 16, "alpha": 32}},
}
DTYPES = {"full": ("float32", "bfloat16"), "lora": ("bfloat16",)}
"""What TRL's weights are loaded in; in bfloat16 a full training keeps weights and moments in it, ours in float32."""


def manifest(workload: Workload, name: str, method: str, *, packing: str, rows: int, checkpointing: str) -> str:
    """A job on one GPU in bf16, its micro-batch of `rows`."""
    training = {"precision": "BF16", "microBatchSize": rows, "gradientCheckpointing": checkpointing}
    workers = {"replicas": 1, "gpusPerReplica": 1}
    changes: dict[str, Any] = {"training": training, "workers": workers, "method": METHODS[method]}
    return str(workload.manifest(name, packing=packing, zero_stage=0, **changes))


def measure(entries: dict[str, tuple[str, dict[str, Any]]], folder: Path, *, steps: int, rounds: int) -> Race:
    """The contestants by name: target and payload."""
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(
                contestant(name, target, payload | {"workdir": str(folder / name)}, folder, device="cuda")
            )
            for name, (target, payload) in entries.items()
        ]
        return race(contestants, steps=steps, rounds=rounds)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_identical_batches_train_no_slower_than_in_trl(
    method: str, gpu_workload: Workload, gpu_report: Report, tmp_path: Path
) -> None:
    job = manifest(gpu_workload, f"identical-{method}", method, packing="None", rows=8, checkpointing="On")
    entries: dict[str, tuple[str, dict[str, Any]]] = {"ours": (OURS, {"job": job})}
    entries |= {f"trl {dtype}": (IDENTICAL, {"job": job, "dtype": dtype}) for dtype in DTYPES[method]}
    found = measure(entries, tmp_path, steps=4, rounds=4)
    found.check_same_tokens()
    gpu_report.record(f"same padded batches, {method}", found)
    gpu_report.judge(f"gpu-{method}-trl", found, "ours", f"trl {DTYPES[method][0]}")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_same_records_train_faster_than_in_trl_with_each_ones_best_isolating_setting(
    method: str, gpu_workload: Workload, gpu_report: Report, tmp_path: Path
) -> None:
    packed = manifest(gpu_workload, f"packed-{method}", method, packing="BestFit", rows=1, checkpointing="Off")
    padded = manifest(gpu_workload, f"padded-{method}", method, packing="None", rows=8, checkpointing="Off")
    dtype = DTYPES[method][-1]
    entries: dict[str, tuple[str, dict[str, Any]]] = {
        "ours packed": (OURS, {"job": packed}),
        "ours padded": (OURS, {"job": padded}),
        "trl bfd": (RAW, {"job": packed, "setting": "bfd", "dtype": dtype}),
        "trl grouped": (RAW, {"job": padded, "setting": "grouped", "dtype": dtype}),
    }
    found = measure(entries, tmp_path, steps=4, rounds=4)
    gpu_report.record(f"same records, {method}", found)
    ours, trl = found.fastest(["ours packed", "ours padded"]), found.fastest(["trl bfd", "trl grouped"])
    gpu_report.judge(f"gpu-{method}-trl-best", found, ours, trl)
