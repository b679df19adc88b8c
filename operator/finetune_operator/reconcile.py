"""Reconcile one job: look, decide, do, write the status once, then tell. The only place where these meet."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from finetune_operator.api.job import FINALIZER, Job, read_job
from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.api.status import Condition, JobStatus
from finetune_operator.carry_out import Hands, Refused
from finetune_operator.core import Key, metrics
from finetune_operator.core.logs import about
from finetune_operator.kube import Conflict, Object
from finetune_operator.kube.resources import JOBS
from finetune_operator.look import Looker, next_in_turn, stand_of
from finetune_operator.policy.actions import Action, CreateAttempt, Decision
from finetune_operator.policy.admission import Stand
from finetune_operator.policy.decide import decide
from finetune_operator.story import Event, ended_between, events_between
from finetune_trainer.errors import SpecError

REFUSED_AGAIN = 15.0
"""Seconds after which something that the API server refused is tried again."""

logger = logging.getLogger(__name__)


class Stops(Protocol):
    """Where stops are put so that runs hear of them."""

    def ask_stop(self, uid: str, deadline: datetime, reason: str, attempt: int | None = None) -> None:
        """Ask this attempt of the job to commit and stop by then."""
        ...

    def call_off(self, uid: str) -> None:
        """Ask no longer."""
        ...

    def forget(self, uid: str) -> None:
        """Drop everything about a job that is gone."""
        ...


@dataclass(frozen=True)
class Reconciler:
    """Brings one job at a time to where it should be. `tell` records an event about a job, `wake` has one looked at."""

    looker: Looker
    hands: Hands
    stops: Stops
    tell: Callable[[Object, Event], None]
    uids: dict[Key, str]
    """The uid by which each job was last known, so that what is kept of a job goes with it."""
    wake: Callable[[Key], None] = lambda key: None
    crowded: Callable[[], bool] = lambda: False
    """Whether there is so much to do that a new job is told that it was seen before it is started."""

    async def __call__(self, key: Key) -> float | None:
        """Reconcile the job of this namespace and name; returns the seconds after which to look again, if any.

        One that has changed since it was seen is read anew and reconciled at once, once: its watch may hang.
        """
        try:
            return await self._reconcile(key)
        except Conflict:
            await self.hands.read_again(key)
            return await self._reconcile(key)

    async def _reconcile(self, key: Key) -> float | None:
        found = self.looker.caches.jobs.get(*key)
        self._follow(key, found)
        if found is None:
            return None
        try:
            job = read_job(found)
        except SpecError as error:
            await self._refuse(found, error)
            return None
        if self.crowded() and not found.get("status") and job.deleted is None:
            await self._write(found, job, JobStatus(observed_generation=job.generation, phase=Phase.PENDING))
            self.wake(key)  # behind those that have no status yet
            return None
        decision, wake = await self._settle(job)
        self._ask_stops(job.uid, decision.status)
        await self._write(found, job, decision.status)
        return wake

    async def _settle(self, job: Job) -> tuple[Decision, float | None]:
        """Decide and do, and decide again on what that made: the status to write, and when to look again."""
        decision = self._decide(job)
        if rests_on_absence(job, decision):
            await self.hands.catch_up(job)
            decision = self._decide(job)
        try:
            done = [await self._do(job, action) for action in decision.actions]
        except Refused as refused:
            self.looker.starting.discard(job.uid)
            for key in next_in_turn(self.looker.caches, job.manifest.spec.runtime_ref.name):
                if key != job.key:  # which is tried again by itself
                    self.wake(key)
            decision = decide(self.looker.look(job, refused.obstacle))
            return decision, REFUSED_AGAIN
        if CreateAttempt in done:
            self.looker.starting.discard(job.uid)
            decision = decide(self.looker.look(job))
        return decision, None if decision.wake_after is None else decision.wake_after.total_seconds()

    def _decide(self, job: Job) -> Decision:
        """Decide, and take the place of an attempt that will be created, before anybody else looks.

        It is given back when the attempt is there or was refused: after any other error it may be there nevertheless.
        """
        decision = decide(self.looker.look(job))
        if any(isinstance(action, CreateAttempt) for action in decision.actions):
            self.looker.starting.add(job.uid)
        else:
            self.looker.starting.discard(job.uid)
        return decision

    async def _do(self, job: Job, action: Action) -> type[Action]:
        with about(**({"attempt": action.number} if isinstance(action, CreateAttempt) else {})):
            logger.info("%s", action)
            await self.hands.carry_out(job, action)
        return type(action)

    def _ask_stops(self, uid: str, status: JobStatus) -> None:
        """The status says which stop is asked for; the mailbox, which forgets, is told each time."""
        if status.stop is None:
            self.stops.call_off(uid)
        else:
            self.stops.ask_stop(uid, status.stop.deadline, status.stop.reason.value, status.stop.attempt)

    async def _write(self, found: Object, job: Job, status: JobStatus) -> None:
        """Write the status if it differs, into the very object that was looked at; then tell what changed."""
        old, new = found.get("status") or {}, json.loads(status.model_dump_json(exclude_none=True))
        change = merge_patch(old, new)
        if not change:
            return
        current = self.looker.caches.jobs.get(*job.key)  # a finalizer was added or taken off meanwhile
        if current is None:
            return
        precondition = {"uid": job.uid, "resourceVersion": current["metadata"]["resourceVersion"]}
        body = {"metadata": precondition, "status": change}
        written = await self.hands.client.patch(JOBS, job.namespace, job.name, body, subresource="status")
        self.looker.caches.jobs.put(written)
        for attempt in ended_between(job.status, status):
            metrics.ATTEMPTS_ENDED.labels(attempt.reason).inc()
        for event in events_between(job.status, status):
            self.tell(written, event)

    async def _refuse(self, found: Object, error: SpecError) -> None:
        """A spec that older rules let pass: said in the status; an attempt that runs goes on."""
        if "deletionTimestamp" in found["metadata"]:
            await self.hands.release(found)
            return
        await self._say(found, Reason.USER_ERROR, str(error))

    async def explain(self, found: Object, why: str) -> None:
        """Say in the status of a job that waits for its first attempt why the cluster can run none."""
        started = (found.get("status") or {}).get("attempts")
        if not started and stand_of(found) in (Stand.WAITING, Stand.ASIDE):
            await self._say(found, Reason.KUBERAY_MISSING, why)

    async def _say(self, found: Object, reason: Reason, text: str) -> None:
        """Say in its condition Admitted why a job does not start, once, and leave all else as it is."""
        status = found.get("status") or {}
        conditions = status.get("conditions") or []
        condition = refusal(reason, text, found["metadata"].get("generation", 1), self.looker.clock())
        if any((one["type"], one.get("message")) == (condition["type"], condition["message"]) for one in conditions):
            return
        others = [one for one in conditions if one["type"] != condition["type"]]
        metadata = found["metadata"]
        precondition = {name: metadata[name] for name in ("uid", "resourceVersion")}
        told = {"phase": status.get("phase", Phase.PENDING.value), "conditions": [*others, condition]}
        body = {"metadata": precondition, "status": told}
        place = (metadata["namespace"], metadata["name"])
        written = await self.hands.client.patch(JOBS, *place, body, subresource="status")
        self.looker.caches.jobs.put(written)
        self.tell(written, Event("Warning", reason, condition["message"]))

    def _follow(self, key: Key, found: Object | None) -> None:
        """Forget what was kept of a job that is gone, also when another one of its name has followed."""
        known, now = self.uids.get(key), None if found is None else found["metadata"]["uid"]
        if known is not None and known != now:
            self.stops.forget(known)
            self.looker.starting.discard(known)
        if now is None:
            self.uids.pop(key, None)
        else:
            self.uids[key] = now


def rests_on_absence(job: Job, decision: Decision) -> bool:
    """Whether something is decided that an old view could be the cause of: an attempt that is lost, or a next one.

    The very first attempt is not meant: the finalizer is written before it, and only into the job that was looked at.
    """
    live = job.status.attempt is not None and job.status.attempt.finished_at is None
    ended = decision.status.attempt
    lost = live and ended is not None and ended.outcome == "Failed"
    return lost or (FINALIZER in job.finalizers and any(isinstance(one, CreateAttempt) for one in decision.actions))


def refusal(reason: Reason, text: str, generation: int, now: datetime) -> dict[str, Any]:
    """The condition that says why a job cannot be worked with."""
    condition = Condition(
        type=ConditionType.ADMITTED,
        status="False",
        reason=reason,
        message=text[:1024],
        last_transition_time=now,
        observed_generation=generation,
    )
    return condition.model_dump(mode="json")


def merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes `new` of `old`; empty when they are equal."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := merge_patch(before, value):
                patch[name] = inner
        elif before != value:
            patch[name] = value
    return patch
