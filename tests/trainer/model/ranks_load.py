"""What test_load_zero3.py runs on two ranks: load, and look at what each rank holds."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from finetune_trainer.errors import DataError
from finetune_trainer.model.load import load_model

PERIOD = 0.002  # seconds between two looks at the process's memory


def load(payload: dict[str, Any]) -> dict[str, Any]:
    """Results of `load_one` and `refuse_one` for every [path, dtype] in `good` and every path in `bad`.

    `adopt`: torch.distributed is initialised before DeepSpeed is, as Ray Train does it.
    """
    _start(payload["adopt"])
    good = [load_one(Path(path), getattr(torch, dtype)) for path, dtype in payload["good"]]
    return {"good": good, "bad": [refuse_one(Path(path)) for path in payload["bad"]]}


def load_one(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Bytes held, peak growth of anonymous memory, and names of weights that differ from a load without ZeRO."""
    with _PeakMemory() as memory:
        model = load_model(path, dtype=dtype, zero_stage=3, ds_config=_config(dtype))
    reference = load_model(path, dtype=dtype)  # whole, although the partitioned model's configuration is alive
    parameters: list[Any] = list(model.parameters())
    return {
        "held": sum(p.ds_tensor.numel() * p.element_size() for p in parameters),
        "whole": sum(p.ds_numel * p.element_size() for p in parameters),
        "peak": memory.growth,
        "different": _different(model, reference),
        "count": len(parameters),
        "logits": _logits_difference(model, reference, dtype),
        "buffers": sorted({str(buffer.dtype) for buffer in model.buffers()}),  # after the engine has cast what it casts
    }


def refuse_one(path: Path) -> str:
    """The error with which this rank refuses a folder under ZeRO-3."""
    try:
        load_model(path, dtype=torch.float32, zero_stage=3, ds_config=_config(torch.float32))
    except DataError as error:
        return str(error)
    return "no error"


def _start(adopt: bool) -> None:
    if adopt:
        dist.init_process_group("gloo")
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)


def _config(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "train_batch_size": 7,  # no multiple of the ranks: the load must not care
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "bf16": {"enabled": dtype == torch.bfloat16},
    }


def _different(model: PreTrainedModel, reference: PreTrainedModel) -> list[str]:
    expected = dict(reference.named_parameters())
    different = []
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if not torch.equal(parameter.data, expected[name].data):
                different.append(name)
    return different


def _logits_difference(model: PreTrainedModel, reference: PreTrainedModel, dtype: torch.dtype) -> float:
    """Largest difference of logits, with the engine that training uses."""
    config = _config(dtype) | {"train_batch_size": dist.get_world_size()}
    engine = deepspeed.initialize(model=model, config=config, dist_init_required=False)[0]
    engine.eval()
    reference.train(False)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        found = engine(input_ids=ids, use_cache=False).logits
        expected = reference(input_ids=ids, use_cache=False).logits
    return float((found - expected).abs().max())


class _PeakMemory:
    """Growth of this process's anonymous memory (no mapped files) at its highest, in bytes, sampled by a thread."""

    def __init__(self) -> None:
        self._start = self._peak = _anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def growth(self) -> int:
        return self._peak - self._start

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self._peak = max(self._peak, _anonymous())


def _anonymous() -> int:
    match = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024
