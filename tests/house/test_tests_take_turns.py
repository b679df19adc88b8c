"""Tests that measure time run while no other does, however many processes share a session."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from turns import turn


@contextmanager
def waiting(folder: Path, order: list[str], *, alone: bool) -> Iterator[None]:
    """Somebody who wants to come in, and says in `order` that he has."""

    def come() -> None:
        with turn(folder, alone=alone):
            order.append("alone" if alone else "beside others")

    thread = threading.Thread(target=come)
    thread.start()
    yield
    thread.join(30)


def wait_for_somebody_at_the_door(folder: Path) -> None:
    with (folder / "door").open() as door:
        while True:
            try:
                fcntl.flock(door, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            fcntl.flock(door, fcntl.LOCK_UN)


def test_two_tests_run_beside_each_other(tmp_path: Path) -> None:
    order: list[str] = []
    with turn(tmp_path, alone=False):
        with waiting(tmp_path, order, alone=False):
            pass
        assert order == ["beside others"]


def test_one_that_runs_alone_waits_for_the_others_and_lets_nobody_in_before(tmp_path: Path) -> None:
    order: list[str] = []
    inside = ExitStack()
    inside.enter_context(turn(tmp_path, alone=False))
    with waiting(tmp_path, order, alone=True):
        wait_for_somebody_at_the_door(tmp_path)
        with waiting(tmp_path, order, alone=False):
            assert order == []
            inside.close()
    assert order == ["alone", "beside others"]
