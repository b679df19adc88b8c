"""Measures the memory of small trainings and writes the table of docs/memory.md: `memory_table.py [--device cuda]`.

Its cases are those of the tests. It takes four minutes on two cores, so that `make generate` does not run it: run it
when the engine, torch or DeepSpeed have changed, and with `--again` when only the formulas of finetune_trainer.estimate
have. What it has measured it keeps in build/memory.json, and goes on from there when it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "trainer"), str(ROOT / "tests")]

from memory_cases import FEW, MORE, PARTS, UNSEEN, Case, measured, predicted  # noqa: E402  (tests are no installed package)

PAGE = ROOT / "docs" / "memory.md"
KEPT = ROOT / "build" / "memory.json"  # bytes by device and case
CHUNK = 8  # cases measured by one set of processes
MARKS = {
    "cpu": ("<!-- measured on a CPU -->\n", "<!-- end -->"),
    "cuda": ("<!-- measured on a GPU -->\n", "<!-- end -->"),
}


def table(found: Mapping[Case, int], *, on_gpu: bool) -> str:
    """A row for each case, in their order, and what the errors are in all."""
    lines = ["| case | measured MB | predicted MB | error |", "|---|---:|---:|---:|"]
    errors = []
    for case, size in found.items():
        guess = predicted(case, on_gpu=on_gpu)
        errors.append(guess / size - 1)
        lines.append(f"| {case.name} | {size / 1e6:.2f} | {guess / 1e6:.2f} | {errors[-1]:+.1%} |")
    worst = max(errors, key=abs)
    mean = sum(map(abs, errors)) / len(errors)
    tools = ", ".join(f"{package} {version(package)}" for package in ("torch", "deepspeed", "transformers", "peft"))
    lines += ["", f"{len(errors)} cases: mean error {mean:.1%}, worst {worst:+.1%}; {tools}, {platform.machine()}."]
    return "\n".join(lines) + "\n"


def _measure(cases: list[Case], device: str, *, again: bool) -> dict[Case, int]:
    """The peak of each case, in their order; what an interrupted call has measured is not measured again."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    sizes: dict[str, int] = kept.get(device, {}) if again or not kept.get("whole") else {}
    with tempfile.TemporaryDirectory() as folder:
        left = [case for case in cases if case.name not in sizes]
        for first in range(0, len(left), CHUNK):
            found = measured(left[first : first + CHUNK], Path(folder), device=device, timeout=600)
            sizes |= {case.name: size for case, size in found.items()}
            whole = all(case.name in sizes for case in cases)
            KEPT.parent.mkdir(exist_ok=True)
            KEPT.write_text(json.dumps({**kept, device: sizes, "whole": whole}))
            print(f"{len(sizes)} of {len(cases)} measured", file=sys.stderr)
    return {case: sizes[case.name] for case in cases}


def main() -> int:
    """Measure, and put the table in its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=sorted(MARKS), default="cpu", help="what to measure on")
    parser.add_argument("--again", action="store_true", help="predict again, and measure only what was not measured")
    arguments = parser.parse_args()
    device = arguments.device
    cases = [case for case in (*FEW, *MORE, *UNSEEN, *PARTS) if device == "cpu" or case.ranks == 1]
    found = _measure(cases, device, again=arguments.again)
    start, end = MARKS[device]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(start)
    _, _, after = rest.partition(end)
    PAGE.write_text(before + start + table(found, on_gpu=device == "cuda") + end + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
