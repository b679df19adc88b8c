"""A rank that never ends; without torch, so that it hangs long before a short timeout."""

from __future__ import annotations

import os
import threading
from typing import Any


def hang_on_rank_zero(_: dict[str, Any]) -> dict[str, Any]:
    """Rank 0 waits for ever; the others return."""
    if os.environ["RANK"] == "0":
        threading.Event().wait()
    return {}
