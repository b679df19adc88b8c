"""What test_lora_zero.py runs on two ranks: adapters, proof and one training step, at every ZeRO stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from finetune_trainer.model.cross_entropy import kept_loss_sum
from finetune_trainer.model.head import KeptPositions
from finetune_trainer.model.isolation import prove_isolation
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.spec.method import LoRA

CPU = torch.device("cpu")
SEED = 5
LORA = LoRA(rank=4, alpha=8)
IDS = torch.arange(3, 43).reshape(2, 20)
KEPT = torch.arange(5, 25)  # of the first rank; the second keeps nothing


def train(payload: dict[str, Any]) -> dict[str, Any]:
    """For every [path, stage]: initial adapters, isolation, loss and the adapters after one step, as plain lists."""
    dist.init_process_group("gloo")
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    return {"runs": [_run(Path(path), stage) for path, stage in payload["runs"]]}


def train_plainly(payload: dict[str, Any]) -> dict[str, Any]:
    """The same for every path in one process, without DeepSpeed: what the ranks together must learn."""
    return {"runs": [_run_plainly(Path(path)) for path in payload["paths"]]}


def _run_plainly(path: Path) -> dict[str, Any]:
    model, _ = apply_lora(load_model(path, dtype=torch.float32), LORA, SEED)
    initial = adapters(model)
    loss = loss_of(model, KeptPositions(model), KEPT)
    torch.autograd.backward(loss)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    return {"initial": initial, "trained": adapters(model), "loss": loss.item()}


def _run(path: Path, stage: int) -> dict[str, Any]:
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": dist.get_world_size(),
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
    }
    base = load_model(path, dtype=torch.float32, zero_stage=stage, ds_config=config, gradient_checkpointing=True)
    model, _ = apply_lora(base, LORA, SEED)
    head = KeptPositions(model)
    initial = adapters(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]
    report = prove_isolation(engine.module, CPU)
    index = KEPT if dist.get_rank() == 0 else KEPT[:0]
    loss = loss_of(engine, head, index)
    engine.backward(loss * dist.get_world_size())
    engine.step()
    return {"initial": initial, "trained": adapters(model), "loss": loss.item(), "isolation": report.to_json()}


def loss_of(model: Any, head: KeptPositions, index: Tensor) -> Tensor:
    """The mean loss over KEPT of predicting, at each position of `index`, the id before it."""
    with head.select(index):
        logits = model(input_ids=IDS, use_cache=False).logits
    return kept_loss_sum(logits, IDS.flatten()[index - 1]) / len(KEPT)


def adapters(model: nn.Module) -> dict[str, list[float]]:
    """Values of all adapters by name, gathered where ZeRO-3 has them partitioned."""
    found = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                found[name] = parameter.detach().flatten().tolist()
    return found
