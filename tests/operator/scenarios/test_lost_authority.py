"""The Secret with the operator's certificates is lost while no operator runs: no run from before is heard any more, and
that is all."""

from __future__ import annotations

import asyncio
import base64

from control_plane import ControlPlane
from finetune_operator.api.job import JOB_NAME
from finetune_operator.application import SECRET
from finetune_operator.kube.resources import CONFIGMAPS, SECRETS
from finetune_operator.progress.certificates import CA
from player import Run
from stage import Stage, on_stage


async def authority_of(stage: Stage, job: str) -> str:
    """What the pods of a job trust the operator by."""
    pages = stage.client.pages(CONFIGMAPS, namespace=stage.namespace, selector=f"{JOB_NAME}={job}")
    (found,) = [item async for page in pages for item in page.items]
    return str(found["data"]["ca.crt"])


def test_a_run_from_before_comes_to_its_end_and_the_next_one_trusts_the_new_authority(
    control_plane: ControlPlane, namespace: str
) -> None:
    may_end = asyncio.Event()

    async def plot(run: Run) -> None:
        await run.trains()
        await may_end.wait()
        await run.driver("SUCCEEDED", "Complete")  # its last reports reach nobody

    async def script(stage: Stage) -> None:
        await stage.apply("old")
        await stage.player.phase_is("old", "Training")
        before = await authority_of(stage, "old")
        await stage.replica.stop()
        await stage.client.delete(SECRETS, namespace, SECRET)
        stage.replica.start()
        await stage.apply("new")
        await stage.player.phase_is("new", "Training")
        secret = await stage.client.get(SECRETS, namespace, SECRET)
        now = base64.b64decode(secret["data"][CA]).decode()
        assert (await authority_of(stage, "old"), await authority_of(stage, "new")) == (before, now)
        assert before != now
        may_end.set()
        found = await stage.player.phase_is("old", "Succeeded")
        assert [one["outcome"] for one in found["status"]["attempts"]] == ["Succeeded"]
        assert found["status"]["output"] == {"uri": "s3://models/support-bot"}

    on_stage(control_plane, namespace, script, plot)
