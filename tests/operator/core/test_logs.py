"""Logs are JSON lines that name what they are about."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_operator.core.logs import JsonFormatter, about


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("test.logs")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield stream
    logger.removeHandler(handler)


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def log(text: str, *arguments: object) -> None:
    logging.getLogger("test.logs").info(text, *arguments)


def test_a_line_has_time_level_logger_and_message(lines: io.StringIO) -> None:
    log("created %s", "x")
    (line,) = read(lines)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "info", "logger": "test.logs", "message": "created x"}


def test_a_line_names_what_it_is_about_inside_and_nothing_outside(lines: io.StringIO) -> None:
    with about(namespace="team-a", job="bot", generation=2):
        log("one")
        with about(attempt=3):
            log("two")
        log("three")
    log("four")
    assert [(line.get("job"), line.get("attempt")) for line in read(lines)] == [
        ("bot", None),
        ("bot", 3),
        ("bot", None),
        (None, None),
    ]
    assert read(lines)[1]["generation"] == 2


def test_two_tasks_at_once_do_not_mix_what_they_are_about(lines: io.StringIO) -> None:
    async def work(job: str) -> None:
        with about(job=job):
            for _ in range(3):
                log("for %s", job)
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(main())
    found = read(lines)
    assert len(found) == 6
    assert all(line["message"] == f"for {line['job']}" for line in found)


def test_a_traceback_is_one_string_in_its_line(lines: io.StringIO) -> None:
    try:
        raise KeyError("bug")
    except KeyError:
        logging.getLogger("test.logs").exception("failed\nin two lines")
    (line,) = read(lines)
    assert line["message"] == "failed\nin two lines"
    assert "KeyError: 'bug'" in line["traceback"]
    assert line["level"] == "error"


def test_what_is_no_json_is_written_as_text(lines: io.StringIO) -> None:
    with about(key=("team-a", "bot"), path=io.StringIO):
        log("odd")
    assert read(lines)[0]["key"] == ["team-a", "bot"]
