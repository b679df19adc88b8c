"""Whole lives of a job: what its user does, what becomes of its attempts, and when it has come to its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from player import Plot, loses_its_node, meets_a_wrong_manifest, succeeds, trains_until_stopped
from stage import Stage


@dataclass(frozen=True)
class Life:
    """`user` acts after the job was applied and returns when it has come to its end."""

    plots: tuple[Plot, ...]
    user: Callable[[Stage], Awaitable[None]]
    spec: Mapping[str, Any] = field(default_factory=dict)

    async def play(self, stage: Stage) -> None:
        """From the user's apply to the end."""
        await stage.apply(**self.spec)
        await self.user(stage)


def ends_as(phase: str) -> Callable[[Stage], Awaitable[None]]:
    """Nothing is done but to wait."""

    async def user(stage: Stage) -> None:
        await stage.player.phase_is("bot", phase)
        await stage.player.cleared()

    return user


async def suspends_and_resumes(stage: Stage) -> None:
    """Suspends the job while it trains, and lets it go on once it is suspended."""
    await stage.player.phase_is("bot", "Training")
    await stage.change(suspend=True)
    await stage.player.phase_is("bot", "Suspended")
    await stage.player.cleared()
    await stage.change(suspend=False)
    await ends_as("Succeeded")(stage)


async def deletes(stage: Stage) -> None:
    """Deletes the job while it trains."""
    await stage.player.phase_is("bot", "Training")
    await stage.delete()
    await stage.gone()


async def waits_for_its_end(stage: Stage) -> None:
    """Does nothing until the job is gone by itself."""
    await stage.gone()


LIVES = {
    "succeed": Life((succeeds,), ends_as("Succeeded")),
    "retry": Life((loses_its_node, succeeds), ends_as("Succeeded")),
    "fail": Life((meets_a_wrong_manifest,), ends_as("Failed")),
    "suspend": Life((trains_until_stopped, succeeds), suspends_and_resumes),
    "delete": Life((trains_until_stopped,), deletes),
    "time-to-live": Life((succeeds,), waits_for_its_end, {"ttlSecondsAfterFinished": 0}),
}
