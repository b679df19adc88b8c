"""What ranks without torch do in test_launcher.py."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any


def hang_on_rank_zero(_: dict[str, Any]) -> dict[str, Any]:
    """Rank 0 waits for ever; the others return."""
    if os.environ["RANK"] == "0":
        threading.Event().wait()
    return {}


def imported(_: dict[str, Any]) -> dict[str, Any]:
    """Which of the large libraries this rank has before it imports any."""
    return {"libraries": sorted({"deepspeed", "peft", "torch", "transformers"} & set(sys.modules))}
