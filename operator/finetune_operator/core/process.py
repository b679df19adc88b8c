"""What a process does at the same time, until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def until_stopped(stop: asyncio.Event, parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run the parts for ever: one that ends by itself ends all, with its error."""
    stopping = asyncio.create_task(stop.wait())
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.gather(stopping, *tasks, return_exceptions=True)
    for task in done - {stopping}:
        task.result()
