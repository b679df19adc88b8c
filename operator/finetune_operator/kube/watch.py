"""The stream of a watch: one JSON object per line, cut wherever the network likes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

import orjson

from finetune_operator.kube.errors import Unreachable, error_of_status
from finetune_operator.kube.resources import Object


class WatchEvent(NamedTuple):
    """ADDED, MODIFIED and DELETED carry the object; a BOOKMARK only its kind and resourceVersion."""

    type: str
    object: Object


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[WatchEvent, None]:
    """Turn the body of a watch into events.

    Raises the error that an ERROR event means (Gone when the history was compacted), Unreachable for a broken line.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield _event(line)
    if rest:
        raise Unreachable("the watch ended within an event")


def _event(line: bytes) -> WatchEvent:
    try:
        found = orjson.loads(line)
        event = WatchEvent(found["type"], found["object"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise Unreachable(f"the watch sent what is no event: {line[:200]!r}") from error
    if event.type == "ERROR":
        raise error_of_status(event.object, event.object.get("code") or 500)
    return event
