"""However a manifest came to be what it is, the job that starts from it is the same."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane import ControlPlane
from finetune_operator.kube import Object
from finetune_operator.kube.resources import CONFIGMAPS, RAYJOBS
from player import waits
from stage import Stage, staged

KINDS = (CONFIGMAPS.kind, RAYJOBS.kind)
SECONDS = st.none() | st.integers(60, 100_000)
CHANGEABLE = st.fixed_dictionaries(
    {
        "startDeadlineSeconds": SECONDS,
        "activeDeadlineSeconds": SECONDS,
        "noProgressDeadlineSeconds": SECONDS,
        "ttlSecondsAfterFinished": SECONDS,
        "failurePolicy": st.none() | st.builds(lambda most: {"maxAttempts": most}, st.integers(1, 10)),
        "queueName": st.none() | st.sampled_from(["team-a", "team-b"]),
    }
)


async def started(stage: Stage, job: Object) -> str:
    """What an attempt of the job consists of, once its RayJob is there, without what is its own."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    found = await stage.player.until(
        lambda: [one for one in stage.player.ray_jobs.store.all() if one["metadata"]["name"].startswith(name)], name
    )
    made = [one for one in await stage.children() if one["kind"] in KINDS and name in one["metadata"]["name"]]
    parts = [{"labels": one["metadata"]["labels"], **{k: one.get(k) for k in ("spec", "data")}} for one in made]
    assert len(found) == 1 and len(parts) == 2
    text = json.dumps(parts, sort_keys=True)
    return text.replace(uid, "U").replace(hashlib.sha256(uid.encode()).hexdigest()[:5], "H").replace(name, "N")


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGEABLE, min_size=2, max_size=4))
def test_a_changed_manifest_starts_the_same_attempt_as_a_fresh_one(
    control_plane: ControlPlane, namespace: str, walk: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with staged(control_plane, namespace, waits) as stage:
            stage.replica.start()
            walked = await stage.apply("walked-job", suspend=True, **given_only(walk[0]))
            await stage.player.phase_is("walked-job", "Suspended")
            for spec in walk[1:]:
                await stage.change("walked-job", **spec)
            await stage.change("walked-job", suspend=False)
            fresh = await stage.apply("fresh-job", **given_only(walk[-1]))
            assert await started(stage, walked) == await started(stage, fresh)

    asyncio.run(main())


def given_only(spec: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if value is not None}
