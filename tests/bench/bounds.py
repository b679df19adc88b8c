"""What the benches promise: `bounds.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

BOUNDS = Path(__file__).with_name("bounds.toml")


def bounds() -> dict[str, Any]:
    """Bound and goal by name."""
    return tomllib.loads(BOUNDS.read_text())
