"""What is kept of a run whose ranks go on from a commit: where it stands, and no new commit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from finetune_operator.progress.mailbox import Mailbox
from finetune_operator.progress.payload import read_report
from reports import body, commit, step

T0 = datetime(2026, 11, 22, 12, tzinfo=UTC)
RESTART = {"kind": "restart", "restarts": 1, "maxRestarts": 5, "reason": "Killed", "step": 40, "stepsLost": 8}
RESUMING = {"kind": "phase", "name": "resuming", "detail": "step 30", "step": 30, "stepsLost": 18}


def test_ranks_that_go_on_from_an_older_commit_stand_there_and_its_time_is_not_made_up() -> None:
    clock = [0.0]
    mailbox = Mailbox(lambda key, after: None, lambda: clock[0], lambda: T0 + timedelta(seconds=clock[0]))

    def put(*events: dict[str, object]) -> None:
        numbered = [{"seq": 100 * int(clock[0]) + number, **event} for number, event in enumerate(events, 1)]
        mailbox.put("uid", ("team-a", "bot"), 1, read_report(body(*numbered)))

    put(step(40), commit(40), step(48))
    clock[0] = 60.0
    put(RESTART)
    report = mailbox.take("uid")
    assert report is not None and report.progress is not None
    assert (report.progress.step, report.steps_lost, report.restarts) == (40, 8, 1)
    clock[0] = 90.0
    put(RESUMING)
    report = mailbox.take("uid")
    assert report is not None and report.progress is not None and report.checkpoint is not None
    assert (report.progress.step, report.steps_lost, report.progress.activity) == (30, 18, "resuming")
    assert (report.checkpoint.step, report.checkpoint.committed_at) == (30, T0)


def test_a_damaged_commit_is_told_at_once_and_is_no_new_commit() -> None:
    clock, woken = [0.0], []
    mailbox = Mailbox(
        lambda key, after: woken.append(after), lambda: clock[0], lambda: T0 + timedelta(seconds=clock[0])
    )
    mailbox.put("uid", ("team-a", "bot"), 1, read_report(body({"seq": 1, **commit(40)})))
    assert mailbox.take("uid") is not None
    clock[0] = 5.0
    damaged = {"kind": "phase", "name": "quarantining", "detail": "data/1: flipped", "damaged": 40}
    mailbox.put("uid", ("team-a", "bot"), 1, read_report(body({"seq": 2, **damaged}, {"seq": 3, **RESUMING})))
    assert woken[-1] == 0.0
    report = mailbox.take("uid")
    assert report is not None and report.checkpoint is not None and report.checkpoint.damaged is not None
    assert (report.checkpoint.damaged.step, report.checkpoint.damaged.message) == (40, "data/1: flipped")
    assert (report.checkpoint.step, report.checkpoint.committed_at) == (30, T0)
