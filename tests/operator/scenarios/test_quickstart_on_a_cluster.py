"""examples/quickstart.yaml on a cluster: applied as it lies in the repository, never refused, trained to its end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from control_plane import ControlPlane
from player import succeeds
from stage import Stage, on_stage

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"


def test_the_quickstart_gets_its_ray_job_and_no_warning(control_plane: ControlPlane, namespace: str) -> None:
    async def script(stage: Stage) -> None:
        await stage.replica.leads()
        await asyncio.to_thread(control_plane.kubectl, "apply", "-f", str(QUICKSTART), namespace=namespace)
        await stage.player.phase_is("quickstart", "Succeeded")
        assert (await stage.outcome("quickstart"))["attempts"] == [(1, "Succeeded", "Succeeded")]
        assert len(stage.player.played) == 1
        found = await asyncio.to_thread(control_plane.kubectl, "get", "events", "-o", "json", namespace=namespace)
        events = [(one["type"], one["reason"]) for one in json.loads(found)["items"]]
        assert events and {kind for kind, _ in events} == {"Normal"}, events

    on_stage(control_plane, namespace, script, succeeds)
