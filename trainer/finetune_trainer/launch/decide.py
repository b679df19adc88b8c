"""Whether the ranks of a run are started again after a failure; the same rule under Ray Train and torchrun."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.launch.outcome import Failure


@dataclass(frozen=True)
class Retry:
    """Start all ranks again, from the last commit; this is restart number `restarts`, counted from 1."""

    restarts: int


@dataclass(frozen=True)
class Fail:
    """End the run with the failure; `why` is a clause for the user."""

    why: str


def restart_event(decision: Retry, max_restarts: int, cause: Failure) -> dict[str, object]:
    """Return the event that tells of a restart."""
    return {
        "kind": "restart",
        "restarts": decision.restarts,
        "maxRestarts": max_restarts,
        "reason": cause.reason,
        "message": cause.message,
    }


def decide(failure: Failure, restarts: int, max_restarts: int, stopping: bool = False) -> Retry | Fail:
    """Decide after `restarts` earlier restarts, of which `spec.failurePolicy.maxRestarts` are allowed.

    A user's error comes again and is never retried; a run that was asked to stop is not started again either.
    """
    if not failure.retryable:
        return Fail("starting again would fail the same way")
    if stopping:
        return Fail("the run was asked to stop")
    if restarts >= max_restarts:
        return Fail(f"failed again after {restarts} of {max_restarts} restarts (spec.failurePolicy.maxRestarts)")
    return Retry(restarts + 1)
