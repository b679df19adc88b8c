"""What each rank does in tests of runs that begin with a checkpoint of another one: build, begin, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load as parse_safetensors

from finetune_trainer.begin import begin
from finetune_trainer.build import build
from finetune_trainer.commit import Body
from finetune_trainer.engine.fragments import MOMENTS, fragments, optimizer_step_count
from finetune_trainer.run import Run
from finetune_trainer.spec import load_job
from finetune_trainer.store import Checkpoint, RunLog, open_store
from ranks_train import TIMEOUT, context

Masters = dict[str, torch.Tensor]


def masters(log: RunLog, entry: Checkpoint) -> Masters:
    """Every float32 weight of a checkpoint, flat, by the parameter's name; read past the code that loads it."""
    found: Masters = {}
    objects = {ref.name: ref.key for ref in entry.objects}
    for name, held in Body.model_validate(entry.body).engine.tensors.items():
        found[name] = torch.full((int(torch.tensor(held.shape).prod()),), float("nan"))
        for file, start, numel in held.slices:
            stored = parse_safetensors(log.journal.store.get(objects[file]))
            found[name][start : start + numel] = stored[f"master|{start}|{name}"]
    return found


def compare(run: Run, expected: Masters) -> dict[str, Any]:
    """How this rank's training state differs from a new optimizer's over exactly these weights, bit for bit."""
    mine = fragments(run.engine, run.control.rank, run.control.world_size)
    wanted = [expected[one.name].narrow(0, one.start, one.numel) for one in mine]
    pairs = [
        (one.name, one.tensors["master"].view(torch.int32), want.view(torch.int32))
        for one, want in zip(mine, wanted, strict=True)
    ]
    weights = {name: weight for name, weight in run.engine.module.named_parameters() if weight.requires_grad}
    whole = {name: weight for name, weight in weights.items() if not hasattr(weight, "ds_id")}
    low = {name: expected[name].to(weight.dtype).view_as(weight) for name, weight in whole.items()}
    return {
        "elements": sum(one.numel for one in mine),
        "wrong": [name for name, found, want in pairs if not torch.equal(found, want)],
        "weights": [name for name in whole if not torch.equal(whole[name].detach(), low[name])],
        "parameters": sorted(weights),
        "moments": [one.name for one in mine for kind in MOMENTS if one.tensors[kind].any()],
        "updates": optimizer_step_count(run.engine),
        "step": run.progress.step,
        "data": run.progress.data is None,
    }


def start(payload: dict[str, Any]) -> dict[str, Any]:
    """Begin the run of the manifest `job` and compare it with the checkpoint `seq` of the run in `store`/`run`."""
    dist.init_process_group("gloo", timeout=TIMEOUT)
    log = RunLog(open_store(payload["store"]), payload["run"])
    expected = masters(log, log.journal.checkpoint(payload["seq"]))
    with build(load_job(Path(payload["job"])), context(Path(payload["workdir"]))) as run:
        begin(run)
        return compare(run, expected)
