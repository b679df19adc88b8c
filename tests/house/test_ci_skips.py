"""A test that skips itself fails under CI and is only reported elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPING = "import pytest\ndef test_that_cannot_run():\n    pytest.skip('no such machine')\n"


@pytest.mark.parametrize(("ci", "exit_code", "shown"), [("true", 1, "CI allows no skip"), ("", 0, "1 skipped")])
def test_a_skip_fails_in_ci_only(tmp_path: Path, ci: str, exit_code: int, shown: str) -> None:
    (tmp_path / "conftest.py").write_bytes((ROOT / "tests" / "conftest.py").read_bytes())
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    paths = os.pathsep.join([str(ROOT / "tools"), str(ROOT / "tests")])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", str(tmp_path)],
        env=os.environ | {"CI": ci, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, shown in run.stdout) == (exit_code, True), run.stdout
