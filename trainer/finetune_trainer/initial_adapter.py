"""Where a run keeps what its adapters began as, when that was a part of the weights: once, beside its checkpoints.

`<checkpoint.uri>/<run id>/initial-adapter.safetensors`: a safetensors file and behind it its CRC64NVME, 16 hex digits.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save

from finetune_trainer.context import RunContext
from finetune_trainer.engine.collectives import ControlGroup, Tell
from finetune_trainer.errors import StorageError
from finetune_trainer.model.decompose import Factors, decompose, take_out
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.starting_point import StartingPoint
from finetune_trainer.store import ObjectExists, ObjectNotFound, RunLog, crc64_hex, crc64nvme

NAME = "initial-adapter.safetensors"
DIGITS = 16
DECOMPOSING, TAKING_OUT = "decomposing weights into adapters", "taking adapters out of the weights"


def take_out_initial(
    job: FineTuneJob,
    context: RunContext,
    control: ControlGroup,
    log: RunLog,
    start: StartingPoint | None,
    device: torch.device,
    model: Any,
) -> None:
    """Move a part of the weights into the adapters of `model`, where the manifest asks for that; collective.

    The first start of a run computes the part on rank 0; a run that begins with another one's checkpoint takes that
    one's, to which its adapters belong. Either takes as long as it takes, and shows how far it is.
    Raises StorageError when the part is damaged or cannot be stored.
    """
    lora = job.spec.method.lora
    if lora is None or not lora.takes_weights:
        return

    def keep(tell: Tell) -> None:
        if control.is_main and not _kept(log):
            _keep(log, read(start.run()) if start else first_values(partial(_show, tell, DECOMPOSING)))

    first_values = partial(decompose, model, lora.initialization, job.spec.training.seed, device)
    control.agree_long(keep, context)
    control.agree_long(lambda tell: take_out(model, read(log), partial(_show, tell, TAKING_OUT)), context)


def read(log: RunLog) -> Factors:
    """What a run's adapters began as. StorageError when it is not there, or not as it was stored."""
    place = f"{log.uri}/{NAME}"
    try:
        data = log.journal.store.get(f"{log.journal.run_id}/{NAME}")
    except ObjectNotFound as error:
        raise StorageError(f"{place} is missing, without which the run's adapters mean nothing: restore it") from error
    content, crc = data[:-DIGITS], data[-DIGITS:]
    if crc64_hex(crc64nvme(content)).encode() != crc:
        raise StorageError(f"{place} is not as it was stored: restore it")
    return load(content)


def _show(tell: Tell, name: str, done: int, total: int) -> None:
    tell({"kind": "phase", "name": name, "detail": "", "done": done, "total": total, "unit": "weights"})


def _kept(log: RunLog) -> bool:
    return any(log.journal.store.list(f"{log.journal.run_id}/{NAME}"))


def _keep(log: RunLog, factors: Factors) -> None:
    content = save(factors)
    try:
        log.journal.store.create(f"{log.journal.run_id}/{NAME}", content + crc64_hex(crc64nvme(content)).encode())
    except ObjectExists:
        return  # an older attempt that has not noticed yet was faster: its is as good, and stays
