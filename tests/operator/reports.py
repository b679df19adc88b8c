"""Bodies and events of progress reports, as the trainer sends them."""

from __future__ import annotations

import json
from typing import Any


def body(*events: dict[str, Any], stream: object = "a") -> bytes:
    """A request with these events, numbered from 1 where they are not."""
    numbered = [{"seq": number, **event} for number, event in enumerate(events, 1)]
    return json.dumps({"stream": stream, "events": numbered}).encode()


def step(number: int, **more: Any) -> dict[str, Any]:
    """The event of one of 100 optimizer steps."""
    return {"kind": "progress", "step": number, "totalSteps": 100, "percent": float(number), **more}


def commit(number: int, **more: Any) -> dict[str, Any]:
    """The event of a commit."""
    return {"kind": "checkpoint", "step": number, "uri": "s3://ckpt/x", **more}
