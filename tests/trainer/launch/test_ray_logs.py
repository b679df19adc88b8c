"""`finetune run` on a Ray cluster, as an operator starts it: what launcher and ranks wrote is in the store."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from finetune_trainer.spec import logs_uri, parse_job
from finetune_trainer.store import open_store
from finetune_trainer.store.streams import pieces_of, read_pieces
from launch_job import manifest, run_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.usefixtures("ray_here")]

UID = "0e1b6a52-0000-4000-8000-000000000001"


def stored(logs: str, attempt: int) -> dict[str, list[str]]:
    """What is stored of an attempt, by source, in the order of the starts."""
    store, found = open_store(logs), dict[str, list[str]]()
    for stream, pieces in pieces_of(store, f"{attempt}/").items():
        found.setdefault(stream.source, []).append(b"".join(read_pieces(store, pieces)).decode())
    return found


def test_the_output_of_launcher_and_ranks_is_stored_also_of_one_that_was_killed_and_of_its_successor(
    tmp_path: Path, folders: Path
) -> None:
    import ray

    document = manifest("ray-logs", checkpoint={"uri": f"file://{tmp_path}/ckpt", "everySteps": 1})
    document["metadata"]["uid"] = UID
    job = tmp_path / "job.json"
    job.write_text(json.dumps(document))
    address = ray.get_runtime_context().gcs_address
    options = ("--address", address, "--entrypoint", "launch_targets:speaking")
    with run_command(job, *options, FINETUNE_ATTEMPT="3") as process:
        out, _ = process.communicate(timeout=240)
    assert json.loads(out.splitlines()[-1]) == {"kind": "ended", "exitCode": 0, "failure": None}
    logs = logs_uri(parse_job(job.read_text()))
    found = stored(logs, 3)
    assert found["launcher"] == [out]
    wait_until_all_is_stored(folders / "work" / UID / "logs")
    found = stored(logs, 3)
    assert [len(found[f"rank-{rank}"]) for rank in range(2)] == [2, 2]
    first, second = found["rank-1"]
    assert first.splitlines()[-1] == "start 1: a last word"
    assert second.splitlines()[0] == "start 2: from C"
    assert all("a-secret-of-this-test" not in text for texts in found.values() for text in texts)


def wait_until_all_is_stored(folder: Path) -> None:
    """Ray keeps the processes of ranks a moment longer than the run."""
    end = time.monotonic() + 60
    while list(folder.glob("*/*.log")):
        assert time.monotonic() < end
        threading.Event().wait(0.1)  # between two looks
