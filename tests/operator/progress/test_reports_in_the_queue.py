"""Reports reach a reconcile through the real queue, whatever else has their job looked at in between."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from clocks import Clock
from finetune_operator.api.report import Report
from finetune_operator.core import Priority, WorkQueue
from finetune_operator.progress.mailbox import INTERVAL, Mailbox
from finetune_operator.progress.payload import read_report
from reports import body, commit, step

KEY = ("team-a", "support-bot")
TICK = 0.25
RESULT: dict[str, Any] = {"kind": "result", "output": "s3://models/x"}


class Office:
    """A mailbox, the queue that it wakes the job in, and one worker, which notes the report that it saw last."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue(clock=self.clock)
        self.mailbox = Mailbox(lambda key, after: self.queue.add(key, Priority.CHILD, after), self.clock)
        self.sent = 0
        self.seen: Report | None = None

    def happens(self, what: str) -> None:
        """A run reports, or something else has its job looked at."""
        self.sent += 1
        match what:
            case "progress":
                self._put(step(self.sent))
            case "commit":
                self._put(commit(self.sent))
            case "result":
                self._put(RESULT)
            case _:
                self.queue.add(KEY)

    def passes(self, seconds: float) -> None:
        """Time goes by, with everything done that is due."""
        for _ in range(int(seconds / TICK)):
            self._work()
            self.clock.now += TICK
        self._work()

    def _put(self, event: dict[str, Any]) -> None:
        self.mailbox.put("uid", KEY, 1, read_report(body({**event, "seq": self.sent})))

    def _work(self) -> None:
        while (key := self.queue.take()) is not None:
            self.seen = self.mailbox.take("uid")
            self.queue.done(key)


def test_a_result_that_is_held_back_is_seen_though_a_pod_wakes_its_job_first() -> None:
    office = Office()
    office.happens("commit")
    office.passes(TICK)
    office.happens("result")
    office.passes(TICK)
    office.happens("pod")
    office.passes(INTERVAL)
    assert office.seen is not None
    assert office.seen.finished


MOMENTS = st.lists(st.tuples(st.sampled_from(["progress", "commit", "result", "pod"]), st.integers(0, 60)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(MOMENTS)
def test_the_newest_report_is_always_seen_in_time(moments: list[tuple[str, int]]) -> None:
    office = Office()
    for what, ticks in moments:
        office.happens(what)
        office.passes(ticks * TICK)
    office.passes(INTERVAL)
    if any(what != "pod" for what, _ in moments):
        last = office.mailbox.take("uid")
        assert office.seen is last
        assert last is not None
