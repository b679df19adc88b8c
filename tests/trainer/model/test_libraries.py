"""What a rank imports, where all extras are installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finetune_trainer.model.libraries import without

RANK = """
import sys
import finetune_trainer.loop, finetune_trainer.finish
print(sorted({"deepspeed", "mlflow", "wandb"} & {name for name in sys.modules if sys.modules[name]}))
"""


def test_a_rank_imports_no_tracker_and_hears_no_advice_about_kernels() -> None:
    pytest.importorskip("mlflow")
    done = subprocess.run([sys.executable, "-c", RANK], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['deepspeed']"
    assert "kernels-community" not in done.stderr


def test_a_hidden_package_is_there_again_afterwards() -> None:
    sys.modules.pop("wave", None)
    with without("wave"), pytest.raises(ImportError):
        import wave
    import wave

    with without("wave"):  # it was imported before
        import wave
    assert wave.__name__ == "wave"
