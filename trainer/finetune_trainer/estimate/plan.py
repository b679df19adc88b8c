"""The whole estimate of a job, and the refusal of one that cannot fit, from the manifest and the hardware."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.errors import Problem
from finetune_trainer.estimate.fit import Change, Verdict, changes, choose_micro_batch, device_total, judge, least
from finetune_trainer.estimate.host import COPY, checkpoint_size, node_memory
from finetune_trainer.estimate.memory import Peak, held
from finetune_trainer.estimate.setup import Setup
from finetune_trainer.estimate.shape import ModelShape
from finetune_trainer.estimate.state import Counts, Place, count
from finetune_trainer.estimate.work import StoreCost, Work, store_cost, work
from finetune_trainer.spec import FineTuneJob, ranks

GIB = 2**30
OPT_OUT = "finetune.dev/estimate"
"""Annotation of a job; with the value `Ignore` no estimate keeps it from starting."""

MOST_CHANGES = 4


@dataclass(frozen=True)
class Hardware:
    """What a rank has: its device's `memory` and a node's `host_memory` in bytes, peak `teraflops`; None is unknown.

    On a CPU a rank's device is its pod.
    """

    name: str
    memory: int | None = None
    host_memory: int | None = None
    teraflops: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What a job takes; sizes in bytes. `device` includes context and fragmentation, `peak` has the tensors alone."""

    shape: ModelShape
    setup: Setup
    counts: Counts
    hardware: Hardware
    device: int
    least: int
    peak: Peak
    host: dict[str, int]
    verdict: Verdict
    changes: tuple[Change, ...]
    checkpoint: int
    cost: StoreCost
    work: Work

    @property
    def host_needed(self) -> int:
        """Bytes that a node must have: without copies of checkpoints, which are left out where they do not fit."""
        return _needed(self.host)

    @property
    def shortage(self) -> str:
        """What is predicted to run out, with the numbers; empty where nothing is."""
        short = []
        for name, needed, there in (
            (f"{self.hardware.name} has", self.device, self.hardware.memory),
            ("a worker's pod has", self.host_needed, self.hardware.host_memory),
        ):
            if there is not None and needed > there:
                short.append(f"{_gib(needed)} are predicted and {name} {_gib(there)}")
        return ", ".join(short)


def estimate(job: FineTuneJob, shape: ModelShape, hardware: Hardware, rows: float | None = None) -> Estimate:
    """The estimate of a job; `rows` are those of its training data for an epoch, where they are known.

    Where the manifest leaves the micro-batch out, it is the one that a run on such a device chooses.
    """
    setup = settle(job, shape, hardware.memory, ranks(job))
    counts = count(shape, setup)
    device, top = device_total(shape, setup)
    at_least = least(shape, setup)
    host = node_memory(counts, setup, top.size)
    verdict = judge(device, at_least, hardware.memory)
    if verdict is Verdict.FITS and hardware.host_memory is not None and _needed(host) > hardware.host_memory:
        verdict = Verdict.TIGHT
    wanted = verdict in (Verdict.TIGHT, Verdict.TOO_LARGE) and hardware.memory is not None
    size = checkpoint_size(counts)
    return Estimate(
        shape=shape,
        setup=setup,
        counts=counts,
        hardware=hardware,
        device=device,
        least=at_least,
        peak=top,
        host=host,
        verdict=verdict,
        changes=tuple(changes(shape, setup, hardware.memory or 0)[:MOST_CHANGES]) if wanted else (),
        checkpoint=size,
        cost=store_cost(job, counts, size),
        work=work(job, shape, setup, hardware.teraflops, rows),
    )


def settle(job: FineTuneJob, shape: ModelShape, memory: int | None, world_size: int) -> Setup:
    """The job's setup with the micro-batch that it writes, or else the largest that is predicted to fit well.

    On a CPU, and where the device's memory is unknown, a micro-batch that is left out is 1.
    """
    on_gpu = job.spec.workers.gpus_per_replica > 0
    setup = Setup.of(job, world_size, on_gpu=on_gpu)
    if job.spec.training.micro_batch_size is not None or memory is None or not on_gpu:
        return setup
    return setup.with_micro_batch(choose_micro_batch(shape, setup, memory, job.spec.training.global_batch_size))


def least_of(job: FineTuneJob, model: ModelShape | int) -> int:
    """Bytes below which no rank of the job gets; `model` is a shape, or the number of its parameters alone."""
    return least(model, Setup.of(job, ranks(job), on_gpu=job.spec.workers.gpus_per_replica > 0))


def refusal(job: FineTuneJob, model: ModelShape | int, hardware: Hardware) -> Problem | None:
    """Why a job cannot fit, with the numbers; None where it may: only what exceeds the least that it takes is refused.

    `model` is a shape, or the number of parameters of a model of which no more is known.

    Judged by the most ranks that the manifest asks for, which share most. A job with the annotation OPT_OUT is let
    pass.
    """
    if job.metadata.annotations.get(OPT_OUT) == "Ignore" or hardware.memory is None:
        return None
    setup = Setup.of(job, ranks(job), on_gpu=job.spec.workers.gpus_per_replica > 0)
    needed = least(model, setup)
    if needed <= hardware.memory:
        return None
    counts = count(model, setup)
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in held(counts, setup, Place.DEVICE).items() if size)
    found = changes(model, setup, hardware.memory) if isinstance(model, ModelShape) else []
    ways = " or ".join(f"{change.text} ({_gib(change.device)})" for change in found[:MOST_CHANGES])
    remedy = f"it would fit with {ways}" if ways else "take larger devices, or more of them"
    message = (
        f"the job needs at least {_gib(needed)} on each rank and {hardware.name} has {_gib(hardware.memory)} "
        f"({parts}): {remedy}; the annotation {OPT_OUT}: Ignore starts it all the same"
    )
    return Problem("spec.workers", f"{setup.ranks} ranks", message)


def _needed(host: dict[str, int]) -> int:
    return sum(size for name, size in host.items() if name != COPY)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
