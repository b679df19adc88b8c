"""The end of an attempt is counted once, by its class, whoever leads then and however often the job is looked at."""

from __future__ import annotations

from control_plane import ControlPlane
from finetune_operator.api.reasons import FAILURES
from finetune_operator.core.metrics import REGISTRY
from player import loses_its_node, succeeds
from running import expire_lease
from stage import Stage, on_stage


def ended() -> dict[str, float]:
    """How many attempts have ended in this process, by reason."""
    samples = (one for metric in REGISTRY.collect() for one in metric.samples)
    return {one.labels["reason"]: one.value for one in samples if one.name == "finetune_attempts_ended_total"}


def test_each_end_is_counted_once_and_not_again_by_the_next_leader(control_plane: ControlPlane, namespace: str) -> None:
    before = ended()

    async def job(stage: Stage, name: str) -> None:
        await stage.apply(name)
        await stage.player.phase_is(name, "Succeeded")
        await stage.player.cleared()

    async def script(stage: Stage) -> None:
        await job(stage, "one")
        assert ended().keys() >= {*FAILURES}, "a class that never occurred is 0, so that its first is an increase"
        await stage.replica.kill()
        await expire_lease(stage.client, namespace)
        stage.replica.start()
        await stage.change("one", ttlSecondsAfterFinished=3600)
        await job(stage, "two")

    on_stage(control_plane, namespace, script, loses_its_node, succeeds)
    counted = {reason: count - before.get(reason, 0) for reason, count in ended().items()}
    assert {reason: count for reason, count in counted.items() if count} == {"NodeLost": 2, "Succeeded": 2}
