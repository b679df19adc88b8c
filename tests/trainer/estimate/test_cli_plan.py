"""`finetune plan`, and what `finetune run` says of memory before it starts a rank."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from finetune_trainer.cli.app import Options, reporting
from finetune_trainer.cli.plan import plan
from finetune_trainer.data import job_indices
from finetune_trainer.errors import SpecError
from finetune_trainer.estimate import OPT_OUT
from finetune_trainer.launch.fitting import GPU_MEMORY, GPU_PRODUCT, check_fits
from finetune_trainer.spec import load_local_job
from small_job import SmallJob, make_small_job

GIB = 2**30


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallJob:
    return make_small_job(tmp_path_factory.mktemp("plan"))


def known(small: SmallJob, name: str, **spec: Any) -> Path:
    """The manifest of a job for an 8B model that is in the table of known ones, on a GPU."""
    model, workers = {"uri": "hf://meta-llama/Llama-3.1-8B"}, {"replicas": 1, "gpusPerReplica": 1}
    return small.write(name, **{"model": model, "workers": workers, "deepspeed": {"zeroStage": 2}} | spec)


def full(small: SmallJob, name: str) -> Path:
    """The same with all weights to train."""
    return known(small, name, method={"type": "Full", "lora": None}, training={"precision": "BF16"})


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(reporting(plan, Options()))
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "160"})


def test_a_job_that_fits_is_shown_with_its_parts(small: SmallJob) -> None:
    ran = run(known(small, "lora"), "--gpu", "H100", "--tokens", 10_000_000)
    assert ran.exit_code == 0, ran.output
    for text in ("8,030,261,248 parameters", "weights", "optimizer moments", "H100: fits", "s a step", "checkpoint"):
        assert text in ran.output
    assert "12" in next(line for line in ran.output.splitlines() if "optimizer steps" in line)


def test_one_that_does_not_has_an_exit_code_and_remedies(small: SmallJob) -> None:
    ran = run(full(small, "full"), "--gpu-memory", "80Gi")
    assert ran.exit_code == 12
    assert "cannot fit" in ran.output
    assert "it would fit with method.type: LoRA" in ran.output


def test_the_same_is_there_for_programs(small: SmallJob) -> None:
    ran = run(full(small, "program"), "--gpu", "A100-80GB", "-o", "json")
    assert ran.exit_code == 12
    found = json.loads(ran.stdout)
    assert found["verdict"] == "TooLarge"
    assert found["parameters"] == found["counts"]["trainable"] == 8_030_261_248
    assert found["device"] > found["peak"]["size"] == sum(found["peak"]["parts"].values()) > found["hardware"]["memory"]
    assert found["work"]["steps"] == 12
    assert found["checkpoint"] == 12 * 8_030_261_248
    assert {"text", "device", "host"} == set(found["changes"][0])


def test_a_gpu_that_the_job_does_not_ask_for_is_no_hardware_of_it(small: SmallJob) -> None:
    ran = run(small.write("no-gpu"), "--gpu", "H100")
    assert ran.exit_code == 2
    assert "write spec.workers.gpusPerReplica" in ran.output


def test_a_model_in_a_folder_is_read_by_its_configuration(small: SmallJob) -> None:
    ran = run(small.write("folder"), "-o", "json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["verdict"] == "Unknown"


def test_what_is_not_known_is_asked_for(small: SmallJob) -> None:
    elsewhere = known(small, "elsewhere", model={"uri": "hf://somebody/else"})
    assert run(elsewhere).exit_code == SpecError.exit_code
    config = small.folder / "model" / "config.json"
    assert run(elsewhere, "--config", config, "--gpu", "L4").exit_code == 0
    assert run(elsewhere, "--config", small.folder / "none.json").exit_code == SpecError.exit_code
    unknown = run(elsewhere, "--config", config, "--gpu", "Quadro")
    assert unknown.exit_code == 2
    assert "add --gpu-memory" in unknown.output
    assert run(elsewhere, "--config", config, "--gpu-memory", "80GB").exit_code == 2


def test_the_speed_of_this_machine_can_be_measured(small: SmallJob) -> None:
    found = json.loads(run(small.write("speed"), "--calibrate", "-o", "json").stdout)
    assert 1e-4 < found["hardware"]["teraflops"] < 100
    assert found["work"]["seconds"] == 12 * found["work"]["seconds_per_step"] > 0


def test_a_run_that_cannot_fit_is_refused_before_any_rank(small: SmallJob) -> None:
    gpu = {GPU_MEMORY: str(80 * GIB), GPU_PRODUCT: "H100"}
    with pytest.raises(SpecError, match=r"needs at least 135\.0 GiB on each rank and H100 has 80\.0 GiB"):
        check_fits(load_local_job(full(small, "refused")), gpu, local=False)


def test_one_that_is_only_predicted_not_to_is_warned_of(small: SmallJob) -> None:
    options = {"microBatchSize": 6, "gradientCheckpointing": "Off", "precision": "BF16"}
    job = load_local_job(known(small, "warned", training=options, data={"maxLength": 8192}))
    warning = check_fits(job, {GPU_MEMORY: str(24 * GIB)}, local=False)
    assert warning is not None
    assert "memory is predicted to run out" in warning
    assert "it would fit with training.microBatchSize: 1" in warning or "it would fit with" in warning


def test_a_run_of_which_nothing_is_known_is_let_pass(small: SmallJob) -> None:
    assert check_fits(load_local_job(full(small, "passed")), {}, local=False) is None
    elsewhere = known(small, "other", model={"uri": "hf://somebody/else"})
    assert check_fits(load_local_job(elsewhere), {GPU_MEMORY: str(GIB)}, local=False) is None
    cpu = load_local_job(small.write("cpu"))
    assert check_fits(cpu, {GPU_MEMORY: str(GIB)}, local=True) is None


def test_the_annotation_is_heeded_by_a_run(small: SmallJob) -> None:
    path = full(small, "insists")
    path.write_text(path.read_text().replace("name: insists", f"annotations: {{{OPT_OUT}: Ignore}}\n  name: insists"))
    job = load_local_job(path)
    assert job.metadata.annotations == {OPT_OUT: "Ignore"}
    check_fits(job, {GPU_MEMORY: str(80 * GIB)}, local=False)


def test_steps_of_epochs_are_known_once_the_data_was_indexed(small: SmallJob) -> None:
    """160 records of a row each, 6 rows a step: 27 steps an epoch."""
    epochs = {"epochs": 2, "maxSteps": None}
    alone = small.write("alone", training=epochs, data={"packing": "None"})
    assert "optimizer steps unknown: add --tokens" in " ".join(run(alone).output.split())
    deque(job_indices(load_local_job(alone).spec), maxlen=0)
    assert json.loads(run(alone, "-o", "json").stdout)["work"]["steps"] == 54
    packed = json.loads(run(small.write("packed", training=epochs), "-o", "json").stdout)["work"]["steps"]
    assert 20 < packed < 90  # by 4 bytes a token
