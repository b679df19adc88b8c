"""Whose turn it is where a runtime limits the jobs that have a cluster: namespaces in turn, the oldest job first.

Everything is read from the jobs themselves and the objects of their attempts, so an operator that starts anew goes on
with the same line. A finished job counts until it is deleted: a namespace that deletes its jobs at once is taken to
have waited since its oldest waiting job was made, so it may come before others, but only with jobs that are older than
the others' last turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum, auto

from finetune_operator.api.reasons import Reason

Key = tuple[str, str]

UNTIL_TRIED = frozenset({Reason.FORBIDDEN, Reason.NAME_TAKEN})
"""What the API server refused: only another try tells whether it still does."""

UNABLE = frozenset({Reason.RUNTIME_MISSING, Reason.RUNTIME_UNSUITABLE, Reason.USER_ERROR})
"""What is known to keep a job from starting before anything is tried."""


class Stand(IntEnum):
    """Where a job stands at the limit; those before WAITING have a place, or keep the one that they had."""

    LIVE = auto()
    """It has an attempt, or its pods are not gone yet."""

    BETWEEN = auto()
    """Its attempt has ended and the next one follows after a pause."""

    WAITING = auto()
    ASIDE = auto()
    """It cannot start for another reason: jobs behind it may, and it keeps its place in the line."""

    OUT = auto()
    """It is over, suspended or being deleted."""


@dataclass(frozen=True)
class Candidate:
    """A job of the runtime as the limit sees it: made at `since`, its newest attempt ended at `ran_until`."""

    key: Key
    stand: Stand
    since: datetime
    ran_until: datetime | None = None


def order(candidates: Iterable[Candidate]) -> list[Key]:
    """The jobs without a cluster that want one, the next one first; those that stand aside are left out.

    A job that only pauses between attempts comes before any other. Then the namespaces with fewer jobs at the limit
    come first, and of those with equally many the one that has waited longer: since its last attempt ended, or since
    its oldest job was made if that came later. So no namespace has two turns while another one that runs nothing waits.
    """
    known = list(candidates)
    load: dict[str, int] = defaultdict(int)
    ran_until: dict[str, datetime] = {}
    waiting: dict[str, list[Candidate]] = defaultdict(list)
    for one in known:
        namespace = one.key[0]
        if one.stand < Stand.WAITING:
            load[namespace] += 1
        elif one.stand == Stand.WAITING:
            waiting[namespace].append(one)
        if one.ran_until is not None:
            ran_until[namespace] = max(one.ran_until, ran_until.get(namespace, one.ran_until))
    turns = []
    for namespace, group in waiting.items():
        group.sort(key=_age)
        idle = max(group[0].since, ran_until.get(namespace, group[0].since))
        turns += [(load[namespace] + place, idle, one.since, one.key) for place, one in enumerate(group)]
    between = sorted((one for one in known if one.stand == Stand.BETWEEN), key=_age)
    return [*(one.key for one in between), *(turn[-1] for turn in sorted(turns))]


@dataclass(frozen=True)
class Line:
    """A line as it was at one moment: the place of each job that waits in it, and how many jobs had a cluster.

    Until somebody leaves it or its runtime's limit, it says rightly who must wait: those who start move up from the
    line to the limit, which leaves those behind them as far from a place as before. Who may start it says only then.
    """

    places: Mapping[Key, int]
    live: int

    @classmethod
    def of(cls, candidates: Iterable[Candidate]) -> Line:
        """The line of these jobs."""
        known = list(candidates)
        places = {key: place for place, key in enumerate(order(known))}
        return cls(places, sum(one.stand == Stand.LIVE for one in known))

    def ahead(self, key: Key, limit: int) -> int | None:
        """How many jobs are ahead of one that must wait; None for one that may start by now, or came later."""
        place = self.places.get(key)
        return None if place is None else self.before(place, limit)

    def before(self, place: int, limit: int) -> int | None:
        """How many jobs are ahead of this place; None when it is one of those that may start."""
        free = limit - self.live
        return None if place < free else place - max(0, free)

    def may_start(self, limit: int) -> list[Key]:
        """The jobs that might start at that moment, of those that do not stand aside."""
        return list(self.places)[: max(0, limit - self.live)]


def position(key: Key, candidates: Iterable[Candidate], limit: int) -> int | None:
    """How many jobs are ahead of a job without a cluster, or None when it may start now.

    A job that stands aside is tried again as if it stood in the line, at the place that its age gives it.
    """
    known = [_in_line(one) if one.key == key else one for one in candidates]
    if any(one.key == key and one.stand == Stand.LIVE for one in known):
        return None
    line = Line.of(known)
    return line.before(line.places.get(key, len(line.places)), limit)


def turn(ahead: int) -> str:
    """The position in words."""
    return "next in turn" if ahead == 0 else f"{ahead} job{'s' if ahead > 1 else ''} ahead"


def _in_line(one: Candidate) -> Candidate:
    return replace(one, stand=min(one.stand, Stand.WAITING))


def _age(one: Candidate) -> tuple[datetime, Key]:
    return one.since, one.key
