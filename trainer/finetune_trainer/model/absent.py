"""Packages that are installed and yet shall not be imported; imports nothing itself."""

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
