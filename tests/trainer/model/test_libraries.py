"""What a rank imports, where all extras are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_trainer.model.absent import without
from small_job import make_small_job

TESTS = Path(__file__).resolve().parents[1]

RANK = """
import sys
import finetune_trainer.loop, finetune_trainer.finish
print(sorted({"deepspeed", "mlflow", "wandb"} & {name for name in sys.modules if sys.modules[name]}))
"""


LAUNCHER = """
import sys
import finetune_trainer.cli.run
import finetune_trainer.launch.supervisor, finetune_trainer.launch.torchrun
import finetune_trainer.preflight, finetune_trainer.staged
print(sorted({"ray", "torch", "transformers"} & set(sys.modules)))
"""

LORA = """
import sys
from pathlib import Path
from types import SimpleNamespace

from finetune_trainer.context import StopSignal
from finetune_trainer.launch.rank import Place, Settings, run_rank
from finetune_trainer.spec import load_job


def adapt(job, context):
    import finetune_trainer.loop, finetune_trainer.finish
    from finetune_trainer.model.lora import apply_lora
    from tiny_models import build

    apply_lora(build("llama"), job.spec.method.lora, seed=0)
    return {}


sys.modules["adapting"] = SimpleNamespace(adapt=adapt)
job = Path(sys.argv[1])
settings = Settings("adapting:adapt", None, None, job.parent, None)
run_rank(load_job(job), Place(0, 1, 0, 1, "cpu"), settings, StopSignal())
print(sorted({"bitsandbytes", "deepspeed", "matplotlib"} & {name for name in sys.modules if sys.modules[name]}))
"""


def test_a_rank_that_trains_plain_adapters_imports_neither_bitsandbytes_nor_matplotlib(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    job = make_small_job(tmp_path, records=8).write()
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", LORA, str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths})
    assert done.stdout.splitlines()[-1] == "['deepspeed']"


def test_a_rank_imports_no_tracker_and_hears_no_advice_about_kernels() -> None:
    pytest.importorskip("mlflow")
    done = subprocess.run([sys.executable, "-c", RANK], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['deepspeed']"
    assert "kernels-community" not in done.stderr


def test_what_runs_before_the_ranks_waits_for_no_large_library() -> None:
    done = subprocess.run([sys.executable, "-c", LAUNCHER], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_hidden_package_is_there_again_afterwards() -> None:
    sys.modules.pop("wave", None)
    with without("wave"), pytest.raises(ImportError):
        import wave
    import wave

    with without("wave"):  # it was imported before
        import wave
    assert wave.__name__ == "wave"
