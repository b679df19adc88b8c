"""What test_fetch_store.py runs on several ranks at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_trainer.model.fetch import fetch_model


def fetch(payload: dict[str, Any]) -> dict[str, Any]:
    """Fetch the same model as all other ranks; `read` is how many bytes of it this rank brought."""
    moved: list[int] = []
    folder = fetch_model(payload["uri"], Path(payload["cache"]), progress=lambda here, _: moved.append(here))
    return {"folder": str(folder), "read": moved[-1] - moved[0] if moved else 0}
