"""Writes what Helm makes of the chart to tests/operator/chart/golden/, so that a change of it shows in a review.

Not part of `make generate`: it needs helm, which is built on first use.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster_programs import program

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "finetune-operator"
TESTS = ROOT / "tests" / "operator" / "chart"
EVERYTHING = TESTS / "everything.yaml"
OLDEST = "1.30.0"
"""The oldest Kubernetes that the chart may be installed on."""

RENDERS = {"default": (), "everything": ("--values", str(EVERYTHING))}
"""Golden files, and the arguments of helm that make them."""


def golden(name: str) -> Path:
    """The file of a render."""
    return TESTS / "golden" / f"{name}.yaml"


def template(*arguments: str) -> list[str]:
    """What to tell helm so that it prints a release that it does not install."""
    return ["template", "finetune", str(CHART), "--namespace=finetune-system", f"--kube-version={OLDEST}", *arguments]


def main() -> int:
    """Write all files."""
    for name, arguments in RENDERS.items():
        made = subprocess.run([program("helm"), *template(*arguments)], stdout=subprocess.PIPE, text=True, check=True)
        golden(name).parent.mkdir(exist_ok=True)
        golden(name).write_text(made.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
