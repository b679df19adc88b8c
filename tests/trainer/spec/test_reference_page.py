"""The reference page, the examples in the code, and the import of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from finetune_trainer.spec import parse_job
from finetune_trainer.spec.example import EXAMPLE, MINIMAL, NOTHING, example_at
from finetune_trainer.spec.fields import entries
from finetune_trainer.spec.reference import COMPUTED_DEFAULTS, SECTIONS, reference

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_page_is_current() -> None:
    assert (ROOT / "docs" / "manifest.md").read_text() == reference()


def test_the_page_names_every_field_once() -> None:
    rows = [line.split("`")[1] for line in reference().splitlines() if line.startswith(("| `spec.", "| `metadata"))]
    assert rows == [path for path in entries() if path.startswith(("spec.", "metadata"))]


def test_the_shortest_manifest_is_valid() -> None:
    assert parse_job(MINIMAL).spec.training.learning_rate == 2e-4


def test_the_example_has_a_value_for_every_field() -> None:
    optional_objects = {"spec.objective.orpo", "spec.objective.kto", "spec.objective.reward"}
    missing = {path for path in entries() if example_at(path) is NOTHING}
    assert missing - optional_objects == {"spec.objective.grpo"}
    assert EXAMPLE["spec"]["training"]["epochs"] == 2


def test_tables_of_the_page_name_fields_that_exist() -> None:
    assert set(COMPUTED_DEFAULTS) <= set(entries())
    assert {f"spec.{name}" for name in SECTIONS} <= set(entries())


def test_the_manifest_is_read_without_the_heavy_libraries() -> None:
    heavy = ["torch", "ray", "deepspeed", "transformers", "peft", "boto3", "botocore", "numpy", "pyarrow", "hypothesis"]
    code = f"import sys, finetune_trainer.spec; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
