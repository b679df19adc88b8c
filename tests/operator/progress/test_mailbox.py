"""What is kept of reports, when a job is looked at again because of them, and what runs are answered."""

from __future__ import annotations

import typing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.report import Failure, laid_over
from finetune_operator.api.status import CheckpointStatus, Progress
from finetune_operator.progress.mailbox import INTERVAL, MOST_STREAMS, URGENT_INTERVAL, Answer, Mailbox
from finetune_operator.progress.payload import Batch, read_kubeflow, read_report
from finetune_trainer.launch.events import Kind
from reports import body, commit, step

T0 = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = ("team-a", "support-bot")


class Desk:
    """A mailbox with a clock that the test sets; `wakes` holds when jobs are to be reconciled, in seconds."""

    def __init__(self) -> None:
        self.time = 0.0
        self.wakes: list[float] = []
        self.mailbox = Mailbox(self._wake, lambda: self.time, lambda: T0 + timedelta(seconds=self.time))
        self.sent = 0

    def _wake(self, key: tuple[str, str], after: float) -> None:
        assert key == KEY
        self.wakes.append(self.time + after)

    def put(self, *events: dict[str, Any], attempt: int = 1, stream: str = "a") -> Answer:
        numbered = [{"seq": self.sent + number, **event} for number, event in enumerate(events, 1)]
        self.sent += len(events)
        return self.post(read_report(body(*numbered, stream=stream)), attempt)

    def post(self, batch: Batch, attempt: int = 1) -> Answer:
        return self.mailbox.put("uid", KEY, attempt, batch)

    def progress(self) -> Progress:
        report = self.mailbox.take("uid")
        assert report is not None
        assert report.progress is not None
        return report.progress


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_events_are_merged_and_each_field_keeps_its_newest_value(desk: Desk) -> None:
    desk.put({"kind": "phase", "name": "indexing the data"})
    desk.put(step(1, loss=2.5), {"kind": "eval", "evalLoss": 2.25, "step": 1}, commit(1, best=True))
    desk.time = 20.0
    desk.put(step(2, loss=2.4), commit(2))
    report = desk.mailbox.take("uid")
    assert report is not None
    assert report.progress is not None
    assert (report.progress.step, report.progress.loss, report.progress.eval_loss) == (2, "2.4", "2.25")
    assert (report.progress.activity, report.progress.updated_at) == (None, T0 + timedelta(seconds=20))
    assert report.checkpoint == CheckpointStatus(
        latest="s3://ckpt/x", best=1, step=2, committed_at=T0 + timedelta(seconds=20)
    )
    assert (report.attempt, report.at, report.finished) == (1, T0 + timedelta(seconds=20), False)


def test_only_what_was_reported_is_laid_over_what_a_status_already_says(desk: Desk) -> None:
    written = Progress(step=40, total_steps=100, loss="2.1", eval_loss="2.2", tokens=9000)
    desk.put({"kind": "phase", "name": "loading Ray"})
    assert laid_over(written, desk.progress()) == written.model_copy(
        update={"activity": "loading Ray", "updated_at": T0}
    )
    desk.time = 20.0
    desk.put(step(41, loss=None))
    over = laid_over(written, desk.progress())
    assert over is not None
    assert (over.step, over.loss, over.eval_loss, over.tokens) == (41, None, "2.2", 9000)
    assert laid_over(None, over) == laid_over(over, None) == over


def test_a_repeated_request_changes_nothing(desk: Desk) -> None:
    first = read_report(body(step(1), step(2)))
    longer = read_report(body(step(1), step(2), step(3)))
    desk.post(longer)
    desk.time = 20.0
    assert desk.progress().step == 3
    for late in (first, longer, first):
        desk.post(late)
    desk.time = 40.0
    assert (desk.progress().step, desk.progress().updated_at) == (3, T0)
    assert len(desk.wakes) == 1


def test_events_that_were_lost_leave_no_gap_that_anything_waits_for(desk: Desk) -> None:
    desk.post(Batch("a", read_report(body(step(1))).changes))
    numbered = [(900, change) for _, change in read_report(body(step(90))).changes]
    desk.post(Batch("a", tuple(numbered)))
    desk.time = 20.0
    assert desk.progress().step == 90


def test_two_streams_are_told_apart(desk: Desk) -> None:
    desk.post(read_report(body(step(1), stream="a")))
    desk.post(read_report(body(step(2), stream="b")))
    desk.post(read_report(body(step(1), stream="a")))
    desk.time = 20.0
    assert desk.progress().step == 2


def test_the_memory_for_streams_is_bounded_and_the_newest_are_kept(desk: Desk) -> None:
    for number in range(5 * MOST_STREAMS):
        desk.post(read_report(body(step(number), stream=f"s{number}")))
    box = desk.mailbox._boxes["uid"]
    assert list(box.streams) == [f"s{number}" for number in range(4 * MOST_STREAMS, 5 * MOST_STREAMS)]


def test_asking_without_an_event_leaves_nothing_behind(desk: Desk) -> None:
    for number in range(100):
        assert desk.post(Batch(f"s{number}", ())) == Answer(None, "")
    assert (len(desk.mailbox), desk.mailbox.take("uid"), desk.wakes) == (0, None, [])


def test_reports_without_a_stream_are_all_new(desk: Desk) -> None:
    for percent in (10, 11):
        desk.post(read_kubeflow(b'{"trainerStatus": {"progressPercentage": %d}}' % percent))
    desk.time = 20.0
    assert desk.progress().percent == 11


def test_a_run_that_reports_each_second_is_looked_at_every_ten(desk: Desk) -> None:
    shown = set()
    for second in range(100):
        desk.time = float(second)
        if desk.wakes and desk.wakes[-1] <= desk.time:
            shown.add(desk.progress().step)
        desk.put(step(second))
    assert desk.wakes == [0.0, *(1.0 + INTERVAL * n for n in range(1, 11))]
    assert len(shown) == 10


def test_progress_is_held_back_even_from_who_asks_for_other_reasons(desk: Desk) -> None:
    desk.put(step(1))
    assert desk.progress().step == 1
    desk.time = 3.0
    desk.put(step(2))
    assert desk.progress().step == 1, "else each event of a pod would be a write of progress"
    desk.time = 10.0
    assert desk.progress().step == 2


def test_a_wake_that_was_lost_is_made_up_for_by_the_next_look(desk: Desk) -> None:
    desk.put(step(1))
    desk.progress()
    desk.time = 3.0
    desk.put(step(2))
    desk.wakes.clear()
    desk.time = 10.5
    desk.put(step(3))
    assert desk.wakes == [10.5], "the one that was arranged for 10.0 never came"


def test_a_look_that_comes_too_early_arranges_another(desk: Desk) -> None:
    desk.put(step(1))
    desk.progress()
    desk.time = 3.0
    desk.put(step(2))
    desk.time = 4.0
    assert desk.progress().step == 1
    assert desk.wakes == [0.0, 10.0, 10.0], "a queue drops what was planned for a job when it hands it out"


@pytest.mark.parametrize(
    "event", [commit(2), {"kind": "failure", "exitCode": 11}, {"kind": "result"}, {"kind": "restart", "restarts": 1}]
)
def test_what_cannot_wait_is_shown_at_once(desk: Desk, event: dict[str, Any]) -> None:
    desk.put(step(1))
    desk.progress()
    desk.time = 3.0
    desk.put(step(2))
    desk.put(event)
    assert desk.wakes == [0.0, 10.0, 3.0]
    assert desk.progress().step == 2


def test_a_run_that_commits_all_the_time_is_looked_at_once_a_second(desk: Desk) -> None:
    for number in range(100):
        desk.time = number / 10
        if desk.wakes and desk.wakes[-1] <= desk.time:
            assert desk.mailbox.take("uid") is not None
        desk.put(commit(number))
    assert 5 < len(desk.wakes) <= 10 / URGENT_INTERVAL + 1


def test_the_end_is_estimated_from_the_speed_since_the_first_step(desk: Desk) -> None:
    desk.put(step(10))
    assert desk.progress().estimated_completion_time is None
    desk.time = 30.0
    desk.put(step(40))
    assert desk.progress().estimated_completion_time == T0 + timedelta(seconds=30 + 60)
    desk.time = 60.0
    desk.put(step(41, etaSeconds=7.0))
    assert desk.progress().estimated_completion_time == T0 + timedelta(seconds=67), "the run's own word counts"


def test_a_restart_begins_a_new_estimate_and_says_what_happens(desk: Desk) -> None:
    desk.put(step(10))
    desk.time = 10.0
    desk.put(step(50))
    desk.put({"kind": "restart", "restarts": 1, "maxRestarts": 5, "reason": "Error", "message": "x"})
    assert desk.progress().activity == "starting the workers again after Error (restart 1 of 5)"
    assert desk.progress().estimated_completion_time is None
    desk.time = 100.0
    desk.put(step(20))
    desk.time = 110.0
    desk.put(step(30))
    assert desk.progress().estimated_completion_time == T0 + timedelta(seconds=180)
    report = desk.mailbox.take("uid")
    assert report is not None
    assert report.restarts == 1


def test_a_newer_attempt_begins_with_nothing_and_its_predecessor_is_not_heard_any_more(desk: Desk) -> None:
    desk.put(step(50), commit(50), {"kind": "failure", "exitCode": 14, "reason": "Storage", "message": "gone"})
    report = desk.mailbox.take("uid")
    assert report is not None
    assert report.failure == Failure(14, "Storage", "gone")
    desk.time = 2.0
    desk.put({"kind": "phase", "name": "loading Ray"}, attempt=2)
    report = desk.mailbox.take("uid")
    assert report is not None
    assert (report.attempt, report.failure, report.checkpoint) == (2, None, None)
    assert desk.put({"kind": "result"}, attempt=1) == Answer(0.0, "attempt 2 has begun")
    desk.time = 60.0
    report = desk.mailbox.take("uid")
    assert report is not None
    assert (report.attempt, report.finished) == (2, False)


def test_a_stop_is_in_every_answer_with_the_time_that_is_left(desk: Desk) -> None:
    desk.mailbox.ask_stop("uid", T0 + timedelta(seconds=300), "the job is suspended", attempt=1)
    assert desk.put(step(1)) == Answer(300.0, "the job is suspended")
    desk.time = 100.0
    assert desk.post(Batch("another", ())) == Answer(200.0, "the job is suspended")
    desk.time = 1000.0
    assert desk.put(step(2)).to_json() == {"stopBy": 0.0, "reason": "the job is suspended"}


def test_a_stop_of_one_attempt_does_not_stop_the_next(desk: Desk) -> None:
    desk.mailbox.ask_stop("uid", T0, "the job is suspended", attempt=1)
    assert desk.put(step(1), attempt=2) == Answer(None, "")
    desk.mailbox.ask_stop("uid", T0, "the job is deleted")
    assert desk.put(step(2), attempt=2) == Answer(0.0, "the job is deleted")
    desk.mailbox.call_off("uid")
    assert desk.put(step(3), attempt=2) == Answer(None, "")


def test_a_job_that_is_gone_is_forgotten(desk: Desk) -> None:
    desk.put(step(1))
    desk.mailbox.ask_stop("uid", T0, "the job is deleted")
    desk.mailbox.ask_stop("other", T0, "the job is deleted")
    assert len(desk.mailbox) == 2
    desk.mailbox.forget("uid")
    assert (len(desk.mailbox), desk.mailbox.take("uid")) == (1, None)
    desk.mailbox.clear()
    assert len(desk.mailbox) == 0


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
KEYS = ("name", "done", "total", "step", "totalSteps", "percent", "epoch", "loss", "tokens", "tokensPerSecond")
MORE_KEYS = ("etaSeconds", "evalLoss", "uri", "best", "restarts", "maxRestarts", "reason", "message", "exitCode")
EVENTS = st.fixed_dictionaries(
    {"kind": st.sampled_from(typing.get_args(Kind))},
    optional={key: VALUES for key in (*KEYS, *MORE_KEYS, "output", "report", "verdict")},
)


@given(events=st.lists(EVENTS, min_size=1, max_size=5))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_whatever_events_hold_a_status_can_be_written_of_them(events: list[dict[str, Any]]) -> None:
    desk = Desk()
    desk.put(*events)
    report = desk.mailbox.take("uid")
    assert report is not None
    for part in (report.progress, report.checkpoint, report.output):
        if part is not None:
            assert type(part).model_validate_json(part.model_dump_json()) is not None
