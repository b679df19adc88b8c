"""The thread that writes reports, and the course of a run that they show."""

from __future__ import annotations

import threading
from pathlib import Path

from finetune_trainer.errors import StorageError
from finetune_trainer.report.course import Course
from finetune_trainer.report.refresh import Refresher
from finetune_trainer.store import RunLog, open_store
from small_run import ME, save


def test_newest_page_is_written_and_those_between_are_not() -> None:
    refresher, written, begun, go = Refresher(print, pause=0.0), list[int](), threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go.wait(30)
        written.append(1)

    refresher.ask(first)
    assert begun.wait(30)
    refresher.ask(lambda: written.append(2))
    refresher.ask(lambda: written.append(3))
    assert written == [], "asking waits for nothing"
    go.set()
    refresher.close()
    assert written == [1, 3]


def test_end_of_a_run_does_not_wait_for_the_pause() -> None:
    refresher, written = Refresher(print, pause=3600.0), threading.Event()
    refresher.ask(lambda: None)
    refresher.ask(written.set)
    refresher.close(30)
    assert written.is_set()


def test_what_cannot_be_written_is_said_once_and_tried_again() -> None:
    said: list[str] = []
    refresher, written = Refresher(said.append, pause=0.0), threading.Event()

    def fail() -> None:
        raise StorageError("the bucket is gone")

    for write in (fail, fail, written.set):
        refresher.ask(write)
        refresher.close(30)
    assert said == ["the bucket is gone; training goes on, and the next evaluation tries again"]
    assert written.is_set()


def test_course_has_every_attempt_with_its_checkpoints(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}"
    log = RunLog(open_store(uri), "a", clock=lambda: 1000.0)
    course = Course(uri, "a")
    first = save(log.claim(ME), 5)
    assert [(event.kind, event.step, event.attempt) for event in course.events()] == [
        ("start", None, 1),
        ("checkpoint", 5, 1),
    ]
    writer = log.claim(ME)
    writer.quarantine(first, "damaged")
    second = save(writer, 7)
    events = course.events()
    assert [event.kind for event in events] == ["start", "checkpoint", "start", "damaged", "checkpoint"]
    assert events[-1].bytes == sum(ref.size for ref in second.objects)
    assert {event.time for event in events} == {1000.0}
