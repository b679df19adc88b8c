"""DeepSpeed, imported without MLflow.

DeepSpeed's autotuner, which is imported with it, imports MLflow wherever that is installed: 3 of 5 seconds in every
rank, and a tracker is a process of its own (docs/adr/0026).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(name: str) -> Iterator[None]:
    """While open, importing the package `name` fails as if it was not installed, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # how Python says so (importlib, "The module cache")
    try:
        yield
    finally:
        del sys.modules[name]


with without("mlflow"):
    import deepspeed

__all__ = ["deepspeed", "without"]
