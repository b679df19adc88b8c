"""Events are read from a stream that the network cuts anywhere."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.kube import ApiError, Gone, ServerError, Unreachable, WatchEvent
from finetune_operator.kube.watch import read_events


def line(type_: str, **obj: object) -> bytes:
    return json.dumps({"type": type_, "object": obj}).encode() + b"\n"


def read(*chunks: bytes) -> list[WatchEvent]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def main() -> list[WatchEvent]:
        return [event async for event in read_events(stream())]

    return asyncio.run(main())


BODY = b"".join(line("ADDED", name=f"pod-{number}", note="\u00fc\\n" * number) for number in range(5))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, len(BODY)), max_size=12))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(BODY)]
    chunks = [BODY[start:end] for start, end in itertools.pairwise(edges)]
    assert [event.object["name"] for event in read(*chunks)] == [f"pod-{number}" for number in range(5)]


def test_a_large_event_in_many_pieces_is_one_event() -> None:
    body = line("MODIFIED", data="x" * 1_500_000)
    (event,) = read(*(body[start : start + 4096] for start in range(0, len(body), 4096)))
    assert len(event.object["data"]) == 1_500_000


@pytest.mark.parametrize(("code", "kind"), [(410, Gone), (500, ServerError), (504, ServerError)])
def test_an_error_event_is_raised(code: int, kind: type[ApiError]) -> None:
    with pytest.raises(kind, match="too old resource version") as caught:
        read(line("ADDED", name="a") + line("ERROR", kind="Status", code=code, message="too old resource version"))
    assert caught.value.status == code


@pytest.mark.parametrize(
    "rest",
    [BODY[:-20], BODY + b"<html>\n", BODY + b"{}\n", BODY + b"[]\n", BODY + b"null\n"],
    ids=["cut", "html", "no members", "list", "null"],
)
def test_what_is_no_whole_event_is_a_broken_watch(rest: bytes) -> None:
    with pytest.raises(Unreachable):
        read(rest)
