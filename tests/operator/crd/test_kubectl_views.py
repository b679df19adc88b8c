"""What a user sees through kubectl: columns, waiting, documentation, and that the examples are accepted as they are."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from control_plane import ControlPlane
from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.api.status import (
    CheckpointStatus,
    Condition,
    FailureCount,
    Goodput,
    JobStatus,
    OutputStatus,
    Progress,
    QueueStatus,
    StopRequest,
    WorkerCounts,
)
from finetune_operator.crd.documents import crds
from mistakes import Object, read

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").rglob("*.yaml"))
LONG_AGO = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FULL_STATUS = JobStatus(
    observed_generation=3,
    phase=Phase.TRAINING,
    start_time=LONG_AGO,
    completion_time=LONG_AGO,
    conditions=(
        Condition(
            type=ConditionType.COMPLETE,
            status="True",
            reason=Reason.SUCCEEDED,
            message="Trained 3000 steps.",
            last_transition_time=LONG_AGO,
            observed_generation=3,
        ),
    ),
    progress=Progress(
        step=1200,
        total_steps=3000,
        percent=40,
        epoch="0.81",
        tokens=5_000_000_000,
        loss="1.2345",
        eval_loss="1.5",
        tokens_per_second=12345,
        estimated_completion_time=LONG_AGO,
        activity="evaluating",
        updated_at=LONG_AGO,
    ),
    workers=WorkerCounts(ready=3, desired=4),
    restarts=2,
    checkpoint=CheckpointStatus(
        latest="s3://ckpt/uid/log",
        best=1000,
        step=1200,
        committed_at=LONG_AGO,
        bytes=2**40,
        seconds=90,
        step_seconds=3,
    ),
    output=OutputStatus(uri="s3://models/x", report="s3://models/x/report.html", verdict="better"),
    attempts=(
        AttemptStatus(
            number=1,
            ray_job="support-bot-1a2b3-1",
            started_at=LONG_AGO,
            admitted_at=LONG_AGO,
            running_at=LONG_AGO,
            finished_at=LONG_AGO,
            outcome="Failed",
            reason=Reason.NODE_LOST,
            message="node-7 is gone",
            logs="s3://ckpt/support-bot/uid/logs/1",
            grace_seconds=300,
            node="node-7",
            avoided_nodes=("node-3",),
            first_step=0,
            last_step=900,
            steps_lost=100,
        ),
    ),
    failures=(FailureCount(reason=Reason.NODE_LOST, count=1),),
    stop=StopRequest(reason=Reason.SUSPENDED, attempt=2, deadline=LONG_AGO),
    active_seconds=3600,
    goodput=Goodput(allocated_worker_seconds=2**40, productive_worker_seconds=2**39, lost_to_restarts_worker_seconds=7),
    queue=QueueStatus(name="team-a", reason="2 jobs ahead", position=2),
)


@pytest.fixture
def job(control_plane: ControlPlane, namespace: str) -> str:
    """The full job of the tables, created."""
    control_plane.kubectl("apply", "-f", "-", input=json.dumps(read("job.yaml")), namespace=namespace)
    return namespace


@pytest.fixture
def job_with_status(control_plane: ControlPlane, job: str) -> str:
    """The same with every field of a status."""
    patch = json.dumps({"status": json.loads(FULL_STATUS.model_dump_json(exclude_none=True))})
    control_plane.kubectl(
        *("patch", "ftj", "support-bot", "--subresource", "status", "--type", "merge", "-p", patch), namespace=job
    )
    return job


def stored(plane: ControlPlane, namespace: str) -> Object:
    job: Object = json.loads(plane.kubectl("get", "ftj", "support-bot", "-o", "json", namespace=namespace))
    return job


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def test_a_new_job_has_a_line_of_its_own(control_plane: ControlPlane, job: str) -> None:
    header, row = rows(control_plane.kubectl("get", "finetunejobs", namespace=job))
    assert " ".join(header) == "NAME PHASE METHOD WORKERS STEP % LOSS ETA CHECKPOINT QUEUE RESTARTS AGE"
    assert row[:2] == ["support-bot", "LoRA"]


def test_the_columns_show_where_a_job_stands(control_plane: ControlPlane, job_with_status: str) -> None:
    _, row = rows(control_plane.kubectl("get", "ftj", namespace=job_with_status).replace("2 jobs", "2-jobs"))
    shown = ["support-bot", "Training", "LoRA", "3/4", "1200", "40", "1.2345", "2026-01-02T03:04:05Z"]
    assert row[: len(shown)] == shown
    assert row[8].endswith("d")  # days since the commit
    assert row[9:12] == ["2-jobs", "ahead", "2"]


def test_a_long_reason_does_not_stretch_the_table() -> None:
    said = "couldn't assign flavors to pod set workers: insufficient unused quota for nvidia.com/gpu in flavor h100"
    queue = QueueStatus(name="team-a", reason=said)
    assert (queue.reason, queue.summary) == (said, "couldn't assign flavors to pod set...")


def test_nothing_of_a_status_is_lost(control_plane: ControlPlane, job_with_status: str) -> None:
    found = stored(control_plane, job_with_status)["status"]
    assert JobStatus.model_validate_json(json.dumps(found)) == FULL_STATUS
    assert {name for name, value in FULL_STATUS if value is None} == set()


def test_kubectl_waits_for_a_condition(control_plane: ControlPlane, job_with_status: str) -> None:
    wait = ("wait", "ftj/support-bot", "--for=condition=Complete", "--timeout=10s")
    assert "condition met" in control_plane.kubectl(*wait, namespace=job_with_status)


def test_a_status_in_a_manifest_is_dropped(control_plane: ControlPlane, job: str) -> None:
    claimed = {**read("job.yaml"), "status": {"phase": "Succeeded"}}
    control_plane.kubectl("apply", "-f", "-", input=json.dumps(claimed), namespace=job)
    assert "status" not in stored(control_plane, job)


def test_defaults_are_seen_in_the_stored_job(control_plane: ControlPlane, job: str) -> None:
    spec = stored(control_plane, job)["spec"]
    assert spec["data"]["eval"][0]["format"] == "Auto"
    assert spec["data"]["train"][1]["weight"] == 1.0
    assert "columns" not in spec["data"]["train"][0]


@pytest.mark.parametrize("plural", crds())
def test_the_definition_is_stored_as_it_was_written(control_plane: ControlPlane, plural: str) -> None:
    """The chart and `finetune doctor` compare the two, to notice definitions of another version."""
    written = crds()[plural]
    seen = control_plane.kubectl("get", "crd", written["metadata"]["name"], "-o", "json")
    assert json.loads(seen)["spec"]["versions"] == written["spec"]["versions"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted_as_it_is(path: Path, control_plane: ControlPlane, namespace: str) -> None:
    anywhere = re.sub(r", namespace: [a-z-]+", "", path.read_text())
    control_plane.kubectl("apply", "--dry-run=server", "-f", "-", input=anywhere, namespace=namespace)


def test_a_tenant_sees_jobs_among_everything_and_no_error(control_plane: ControlPlane, job: str) -> None:
    """What is cluster-wide cannot be listed by who may read one namespace, and would fail the command."""
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]
    tenant = control_plane.with_user("reader-of-one-namespace", rules, job)
    names = control_plane.kubectl("get", "all", "-o", "name", user=tenant, namespace=job).split()
    assert "finetunejob.finetune.dev/support-bot" in names


EXPLAINED = """\
GROUP:      finetune.dev
KIND:       FineTuneJob
VERSION:    v1alpha1

FIELD: checkpoint <Object>


DESCRIPTION:
    Where and how often the training state is saved.
    
FIELDS:
  everySeconds	<integer>
    Seconds between two checkpoints. At least 1.

  everySteps	<integer>
    Optimizer steps between two checkpoints. At least 1.

  keepBest	<integer>
    Checkpoints with the lowest held-out loss to keep as well; 1 is chosen when
    `evaluation.everySteps` is set. From 0 to 1000. Default: `1` with
    `evaluation.everySteps`, else `0`.

  keepLast	<integer>
    Newest checkpoints to keep; two, so that one is left when the newest turns
    out damaged. From 1 to 1000. Default: `2`.

  uri	<string> -required-
    Folder for checkpoints, `s3://bucket/folder` or `file:///folder`; several
    jobs may share it.


"""


def test_kubectl_explains_a_part_of_the_spec(control_plane: ControlPlane) -> None:
    assert control_plane.kubectl("explain", "ftj.spec.checkpoint") == EXPLAINED
