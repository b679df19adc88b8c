"""What each rank does in tests of exchanges between ranks, with a deadline that is shorter than the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from finetune_trainer.context import RunContext
from finetune_trainer.engine.collectives import ControlGroup, Tell
from finetune_trainer.errors import DataError
from finetune_trainer.launch.watchdog import Watchdog
from finetune_trainer.spec import load_job
from loop_runner import Recorder

PATIENCE = 60
"""Seconds; for ranks that start on a busy machine."""


def share_errors(payload: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 fails in `agree`, each time with another error; returns what this rank raised."""
    control = join(PATIENCE)

    def fail(error: Exception) -> None:
        if control.rank == 1:
            raise error

    errors = [DataError("no record"), TypeError("no number"), MemoryError()]
    return {"raised": [raised(lambda error=error: control.agree(lambda: fail(error))) for error in errors]}  # type: ignore[misc]


def work_long(payload: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 works for twice the deadline; returns what `agree_long` did, what was reported and whether it hung."""

    def work(tell: Tell) -> int:
        for number in range(20 if control.rank == 1 else 0):
            tell({"kind": "phase", "done": number})
            threading.Event().wait(payload["deadline"] / 10)  # some of the work
        return control.rank

    control = join(payload["deadline"])
    recorder, hung = Recorder(), threading.Event()
    with Watchdog(recorder, payload["deadline"], lambda _: hung.set()) as reporter:
        results = control.agree_long(work, place(control, reporter, recorder))
    return {"results": results, "reported": len(recorder.events), "hung": hung.is_set()}


def end_long_work(payload: dict[str, Any]) -> dict[str, Any]:
    """Rank 0 works for ever while rank 1 fails or is asked to stop; returns what was raised and whether work ended."""
    control, recorder, ended = join(PATIENCE), Recorder(), threading.Event()

    def work(tell: Tell) -> None:
        if control.rank == 1 and payload["how"] == "fails":
            raise TypeError("no number")
        try:
            while True:
                tell({"kind": "phase"})
                threading.Event().wait(0.05)  # some of the work
        finally:
            ended.set()

    if control.rank == 1 and payload["how"] == "stops":
        recorder.stop.request("SIGTERM received")
    error = raised(lambda: control.agree_long(work, place(control, recorder, recorder)))
    return {"raised": error, "ended": payload["how"] == "fails" or ended.wait(PATIENCE)}


def index(payload: dict[str, Any]) -> dict[str, Any]:
    """Open the data of the manifest `job`, whose source is slow; returns the number of records and what was told."""
    from finetune_trainer.dataset import open_dataset
    from finetune_trainer.model.tokenizer import load_tokenizer
    from finetune_trainer.spec import run_id
    from finetune_trainer.store import RunLog, open_store

    job = load_job(Path(payload["job"]))
    tokenizer = load_tokenizer(Path(job.spec.model.uri.removeprefix("file://")), None)
    control = join(payload["deadline"])
    recorder, hung = Recorder(), threading.Event()
    with Watchdog(recorder, payload["deadline"], lambda _: hung.set()) as reporter:
        log = RunLog(open_store(job.spec.checkpoint.uri), run_id(job))
        dataset = open_dataset(job, place(control, reporter, recorder), control, log, tokenizer, "", 2)
    told = [event["done"] for event in recorder.of("phase")]
    return {"records": dataset.index.records, "told": told, "hung": hung.is_set()}


def take_out(payload: dict[str, Any]) -> dict[str, Any]:
    """Begin with PiSSA as the manifest `job` says; returns how long it took and what was told."""
    import torch

    from finetune_trainer.assemble import adapt
    from finetune_trainer.initial_adapter import take_out_initial
    from finetune_trainer.model.load import load_model
    from finetune_trainer.spec import run_id
    from finetune_trainer.store import RunLog, open_store

    job = load_job(Path(payload["job"]))
    folder = Path(job.spec.model.uri.removeprefix("file://"))
    base: Any = load_model(folder, dtype=torch.float32, zero_stage=0, ds_config={}, gradient_checkpointing=False)
    model, _ = adapt(job, base, (), None)
    torch.set_num_threads(1)  # two ranks share the machine
    control, recorder = join(payload["deadline"]), Recorder()
    log, started = RunLog(open_store(job.spec.checkpoint.uri), run_id(job)), time.monotonic()
    take_out_initial(job, place(control, recorder, recorder), control, log, None, torch.device("cpu"), model)
    taken = sum(hasattr(layer, "taken_out") for layer in model.modules())
    told = [event["name"] for event in recorder.of("phase")]
    return {"told": told, "taken": taken, "seconds": time.monotonic() - started}


def join(deadline: float) -> ControlGroup:
    dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE))
    dist.barrier()  # from here on the ranks are together
    return ControlGroup.create(deadline)


def place(control: ControlGroup, reporter: Any, recorder: Recorder) -> RunContext:
    rank, size = control.rank, control.world_size
    return RunContext(rank, size, rank, size, "cpu", None, reporter, recorder.stop, Path())


def raised(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
