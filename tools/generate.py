"""Writes the files of this repository that a program makes, or with --check shows where they differ from it."""

from __future__ import annotations

import argparse
import difflib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = "tests/operator/render/golden"
EXAMPLES = sorted(path.stem for path in ROOT.glob("examples/*.yaml"))


def rendered(example: str, runtime: str) -> list[str]:
    """The command that prints what the operator makes of an example on a runtime."""
    return [sys.executable, "tools/render_example.py", f"examples/{example}.yaml", f"examples/runtimes/{runtime}.yaml"]


CHART = "charts/finetune-operator"
GENERATED = {
    "docs/manifest.md": [sys.executable, "-m", "finetune_trainer.spec.reference"],
    "docs/api.md": [sys.executable, "-m", "finetune_operator.crd.reference"],
    f"{CHART}/crds/finetunejobs.yaml": [sys.executable, "-m", "finetune_operator.crd", "finetunejobs"],
    f"{CHART}/crds/finetuneruntimes.yaml": [sys.executable, "-m", "finetune_operator.crd", "finetuneruntimes"],
    f"{CHART}/values.yaml": [sys.executable, "tools/chart_files.py", "values"],
    f"{CHART}/values.schema.json": [sys.executable, "tools/chart_files.py", "schema"],
    f"{CHART}/README.md": [sys.executable, "tools/chart_files.py", "readme"],
    **{f"{GOLDEN}/{example}.yaml": rendered(example, "default") for example in EXAMPLES},
    f"{GOLDEN}/full-70b-zero3-on-h100.yaml": rendered("full-70b-zero3", "h100"),
}


def difference(path: str, committed: str, made: str) -> str:
    """Return a unified diff, empty when both texts are the same."""
    lines = difflib.unified_diff(
        committed.splitlines(True), made.splitlines(True), f"{path} (committed)", f"{path} (generated)"
    )
    return "".join(lines)


def main() -> int:
    """Return 1 if --check finds a file that is not what generates it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    check = parser.parse_args().check
    differs = False
    for path, command in GENERATED.items():
        made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        target = ROOT / path
        committed = target.read_text() if target.exists() else ""
        if check and (shown := difference(path, committed, made)):
            sys.stdout.write(shown)
            differs = True
        elif not check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(made)
    if differs:
        print("\nSome generated files are not current. Run: make generate")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
