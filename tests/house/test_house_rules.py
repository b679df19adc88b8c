"""Rules of this house that no linter knows (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 60
HEAVY = ["torch", "ray", "deepspeed", "transformers", "peft", "boto3", "botocore", "numpy", "pandas"]


def tracked(pattern: str) -> list[Path]:
    names = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.splitlines() if (ROOT / name).exists()]


def long_functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines"


def test_the_repository_has_python_files() -> None:
    assert len(tracked("*.py")) > 10


def test_no_python_file_is_longer_than_300_lines() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in tracked("*.py")}
    assert [f"{path.relative_to(ROOT)} has {n} lines" for path, n in lengths.items() if n > MOST_LINES_OF_A_FILE] == []


def test_no_function_is_longer_than_60_lines() -> None:
    assert [found for path in tracked("*.py") for found in long_functions(path)] == []


def test_source_roots_and_test_folders_are_no_packages() -> None:
    """An `__init__.py` in operator/ or tests/operator/ shadows the standard library's `operator`."""
    roots = {ROOT / "operator", ROOT / "trainer", ROOT / "tools"}
    packages = [path.relative_to(ROOT) for path in tracked("*__init__.py")]
    assert [str(path) for path in packages if ROOT / path.parent in roots or path.parts[0] == "tests"] == []


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in tracked("tests/**/test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_the_manifest_loads_none_of_the_heavy_libraries() -> None:
    code = f"import sys, finetune_trainer.spec; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == "[]"
