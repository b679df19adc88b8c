"""What the user sees of an error: the message when it was raised on purpose, otherwise where the traceback is."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterable

from finetune_trainer.errors import FinetuneError, Problem, SpecError


def explain(error: BaseException, debug: bool) -> int:
    """Write the error to stderr and return its exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, SpecError):
        write_problems(error.problems)
        return error.exit_code
    if isinstance(error, FinetuneError):
        print(f"{error.reason}: {error}", file=sys.stderr)
        return error.exit_code
    print(f"unexpected error, {type(error).__name__}: {error}", file=sys.stderr)
    if not debug:
        print(f"the traceback is in {_keep(error)}", file=sys.stderr)
    return FinetuneError.exit_code


def write_problems(problems: Iterable[Problem], prefix: str = "") -> None:
    """Write one line for each problem."""
    for problem in problems:
        print(f"{prefix}{problem}", file=sys.stderr)


def _keep(error: BaseException) -> str:
    handle, name = tempfile.mkstemp(prefix="finetune-error-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    return name
