"""Whose turn it is where a runtime limits the jobs that have a cluster: first come first served, namespaces in turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

Key = tuple[str, str]


@dataclass(frozen=True)
class Candidate:
    """A job of the runtime as the limit sees it: `running` while it has an attempt, else waiting since `since`."""

    key: Key
    running: bool
    since: datetime


def order(candidates: Iterable[Candidate]) -> list[Key]:
    """The waiting jobs, the next one first.

    Each round takes the oldest waiting job of every namespace, the namespaces with fewer running jobs first; so a
    tenant that submits a hundred jobs does not keep the others waiting for all of them.
    """
    waiting: dict[str, list[Candidate]] = defaultdict(list)
    load: dict[str, int] = defaultdict(int)
    for one in candidates:
        if one.running:
            load[one.key[0]] += 1
        else:
            waiting[one.key[0]].append(one)
    turns = [
        (load[namespace] + place, one.since, one.key)
        for namespace, group in waiting.items()
        for place, one in enumerate(sorted(group, key=lambda one: (one.since, one.key)))
    ]
    return [key for _, _, key in sorted(turns)]


def position(key: Key, candidates: Iterable[Candidate], limit: int) -> int | None:
    """How many jobs are ahead of a waiting job, or None when it may start now."""
    known = list(candidates)
    free = limit - sum(one.running for one in known)
    place = order(known).index(key)
    return None if place < free else place - max(0, free)
