"""What each rank does in the engine tests: the product's engine on a tiny model, over random rows."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from finetune_trainer.data import Row
from finetune_trainer.engine import share
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.blocks import RankBlocks, Span
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.config import deepspeed_config, micro_batch_size, micro_batches_per_step
from finetune_trainer.engine.fragments import Fragment, fragments, optimizer_step_count
from finetune_trainer.engine.load import fill, take_over
from finetune_trainer.engine.share import capture
from finetune_trainer.engine.snapshot import EngineState, merge
from finetune_trainer.engine.staging import in_turns
from finetune_trainer.engine.start import init_communication, start_engine
from finetune_trainer.engine.step import StepResult, train_step
from finetune_trainer.export.gather import gathered, trained_weights
from finetune_trainer.model.decompose import decompose, take_out
from finetune_trainer.model.head import KeptPositions
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.model.quantize import quantization
from finetune_trainer.objectives.sft import CrossEntropy
from finetune_trainer.spec import GradientCheckpointing, Initialization, Precision
from finetune_trainer.store.checksums import crc64nvme
from reference import LEARNING_RATE, job, random_steps

DEVICE = torch.device("cpu")


def train(payload: dict[str, Any]) -> dict[str, Any]:
    """For each of `payload["cases"]` losses and gradient norms of its steps, from the state in `load` if it has one."""
    control = join()
    return {name: _train(case, control) for name, case in payload["cases"].items()}


def _train(case: dict[str, Any], control: ControlGroup) -> dict[str, Any]:
    trainee = Trainee(case, control)
    if "load" in case:
        trainee.restore(Path(case["load"]))
    losses, norms = trainee.train(case.get("first", 0))
    trainee.engine.destroy()
    return {"losses": losses, "norms": norms}


def start(payload: dict[str, Any]) -> dict[str, Any]:
    """For each of `payload["cases"]` the state of a new optimizer: its updates, and masters unlike the weights."""
    control = join()
    found = {}
    for name, case in payload["cases"].items():
        engine = Trainee(case, control).engine
        weights = load_file(Path(case["model"]) / "model.safetensors")
        mine = fragments(engine, control.rank, control.world_size)
        found[name] = {
            "updates": optimizer_step_count(engine),
            "masters": len(mine),
            "changed": [one.name for one in mine if not torch.equal(one.tensors["master"], _slice(weights, one))],
        }
        engine.destroy()
    return found


def _slice(weights: dict[str, torch.Tensor], fragment: Fragment) -> torch.Tensor:
    whole = weights[fragment.name].to(torch.bfloat16).float()
    return whole.view(-1).narrow(0, fragment.start, fragment.numel)


def resume(payload: dict[str, Any]) -> dict[str, Any]:
    """For each of `payload["cases"]`: train on with the state of the middle, in a used engine and in a fresh one.

    The state goes to the case's folder `save`. Each result holds (losses, norms) of all steps (`whole`) and of the
    second half (`used`, `fresh`), and digests of the trained weights at the save and after both restores (`weights`),
    and at the end of all three (`final`).
    """
    control = join()
    return {name: _resume(case, control) for name, case in payload["cases"].items()}


def _resume(case: dict[str, Any], control: ControlGroup) -> dict[str, Any]:
    folder, middle = Path(case["save"]), case["rows"]["steps"] // 2
    used = Trainee(case, control)
    first = used.train(0, middle)
    used.save(folder)
    found: dict[str, Any] = {"weights": [used.digest()], "final": []}
    second = used.train(middle)
    found["whole"] = [one + other for one, other in zip(first, second, strict=True)]
    found["final"].append(used.digest())
    used.evaluate()
    for name in ("used", "fresh"):
        trainee = used if name == "used" else Trainee(case, control)
        trainee.restore(folder)
        found["weights"].append(trainee.digest())
        found[name] = trainee.train(middle)
        trainee.evaluate()
        found["final"].append(trainee.digest())
        trainee.engine.destroy()
    return found


def reshard(payload: dict[str, Any]) -> dict[str, Any]:
    """Train and save the state of each of `payload["cases"]`, or load the states in `load` into each and save them.

    A state is a folder by its name; they go to the folder `save` as `<case>` or `<name>-<case>`. Returns for each
    loaded one how many bytes of tensors this rank read, and how many of them it needed.
    """
    control, folder = join(), Path(payload["save"])
    share.SHARD_ELEMENTS = payload["shard_elements"]
    moved: dict[str, Any] = {}
    for number, case in enumerate(payload["cases"]):
        trainee = Trainee(case, control)
        if not payload["load"]:
            trainee.train(0)
            trainee.save(folder / str(number))
        for name, state in payload["load"].items():
            moved[f"{name}-{number}"] = trainee.restore(Path(state))
            trainee.save(folder / f"{name}-{number}")
        trainee.engine.destroy()
    return moved


def join() -> ControlGroup:
    """Start the process group and this rank's random numbers."""
    torch.manual_seed(int(os.environ["RANK"]))  # dropout
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    init_communication(torch.device("cpu"))
    return ControlGroup.create(60)


class Trainee:
    """The product's engine for one payload on this rank, and the random steps that it trains on."""

    def __init__(self, payload: dict[str, Any], control: ControlGroup) -> None:
        self.control = control
        options = payload.get("training", {}) | {"deepspeed": payload.get("deepspeed")}
        self.job = job(payload["zero_stage"], payload["method"], payload.get("dropout", 0.0), **options)
        self.engine = start_engine(self.job, self._model(Path(payload["model"])), control.world_size, DEVICE)
        self.forward = Forward(KeptPositions(self.engine.module), DEVICE, pad_id=0)
        self.objective = CrossEntropy(self.forward)
        self.steps = random_steps(**payload["rows"])

    def _model(self, path: Path) -> Any:
        spec, qlora = self.job.spec, self.job.spec.method.qlora
        dtype = torch.bfloat16 if spec.training.precision == Precision.BF16 else torch.float32
        model: Any = load_model(
            path,
            dtype=dtype,
            quantization=quantization(qlora, dtype, DEVICE) if qlora is not None else None,
            zero_stage=spec.deepspeed.zero_stage,
            ds_config=deepspeed_config(self.job, self.control.world_size, on_gpu=False),
            gradient_checkpointing=spec.training.gradient_checkpointing == GradientCheckpointing.ON,
        )
        if spec.method.lora is not None:
            model, _ = apply_lora(model, spec.method.lora, seed=0)
            if spec.method.lora.initialization is not Initialization.DEFAULT:
                take_out(model, decompose(model, spec.method.lora.initialization, 0, DEVICE))
        return model

    def train(self, first: int, last: int | None = None) -> tuple[list[float], list[float]]:
        """Losses and gradient norms of these steps."""
        results = [self._step(rows) for rows in self.steps[first:last]]
        return [result.loss for result in results], [result.grad_norm for result in results]

    def _step(self, rows: list[Row]) -> StepResult:
        rank, world_size = self.control.rank, self.control.world_size
        mine, size = rows[rank::world_size], micro_batch_size(self.job, world_size)
        micro_batches = [mine[i * size : (i + 1) * size] for i in range(micro_batches_per_step(self.job, world_size))]
        return train_step(
            self.engine,
            self.objective,
            micro_batches,
            global_batch=rows,
            learning_rate=LEARNING_RATE,
            max_grad_norm=self.job.spec.training.max_grad_norm,
            control=self.control,
        )

    def evaluate(self) -> None:
        """A forward pass without gradients, as a held-out evaluation leaves the engine."""
        self.engine.eval()
        with torch.no_grad():
            self.forward(self.engine, self.steps[0])
        self.engine.train()

    def digest(self) -> str:
        """Hash of the trained weights as an export would write them."""
        found = hashlib.sha256()
        for weights in gathered(trained_weights(self.engine.module), keep=True):
            for name, tensor in weights.items():
                found.update(name.encode() + tensor.float().numpy().tobytes())
        return found.hexdigest()

    def save(self, folder: Path) -> None:
        """Write this rank's share of the state, and on rank 0 what says where everything lies."""
        folder.mkdir(exist_ok=True)
        rank, world_size = self.control.rank, self.control.world_size
        mine = capture(self.engine, rank, world_size)
        blocks = {}
        for one, data in zip(mine.objects, in_turns(mine), strict=True):
            (folder / one.name).write_bytes(data)
            blocks[one.name], _ = one.measure(data)
        (folder / mine.slices.blocks).write_text(RankBlocks(objects=blocks).model_dump_json())
        for name, small in mine.small.items():
            (folder / name).write_bytes(small)
        state = merge(self.control.gather(mine.slices), mine.zero_stage, mine.optimizer_steps)
        if self.control.is_main:
            (folder / "state.json").write_text(state.model_dump_json())
        self.control.barrier()

    def restore(self, folder: Path) -> tuple[int, int]:
        """Load what `save` wrote, on any number of ranks; bytes of tensors that this rank read, and that it needed."""
        state = EngineState.model_validate(json.loads((folder / "state.json").read_text()))
        rank, world_size = self.control.rank, self.control.world_size
        source = FolderSource(folder)
        take_over(self.engine, fill(self.engine, state, rank, world_size, source))
        mine = fragments(self.engine, rank, world_size)
        return source.read, sum(tensor.nbytes for fragment in mine for tensor in fragment.tensors.values())


class FolderSource:
    """The files of a folder; counts the bytes of tensors that were read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.read = folder, 0

    def whole(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def part(self, name: str, span: Span) -> memoryview:
        data = bytearray((self.folder / name).read_bytes()[span.begin : span.end])
        assert crc64nvme(data) == span.crc64
        self.read += len(data)
        return memoryview(data)
