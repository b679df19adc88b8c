"""When a lease is free, by the clock of whoever looks at it."""

from __future__ import annotations

import pytest

from clocks import Clock
from finetune_operator.core.lease import LeaseTimes, Sightings
from finetune_operator.kube import Object


def lease_object(version: int, holder: str = "other", duration: int = 15) -> Object:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": duration, "leaseTransitions": 3}
    return {"metadata": {"resourceVersion": str(version)}, "spec": spec}


def test_a_lease_is_free_when_it_did_not_change_for_its_duration() -> None:
    clock = Clock()
    sightings = Sightings(clock)
    assert not sightings.free_for("me")
    sightings.see(lease_object(1))
    clock.now += 14.9
    sightings.see(lease_object(1))
    assert not sightings.free_for("me")
    clock.now += 0.1
    assert sightings.free_for("me")


def test_each_renewal_that_is_seen_counts_from_when_it_is_seen() -> None:
    clock = Clock()
    sightings = Sightings(clock)
    for version in (1, 2, 3):
        sightings.see(lease_object(version))
        clock.now += 14.9
        assert not sightings.free_for("me")
    clock.now += 0.1
    assert sightings.free_for("me")


def test_the_duration_is_the_one_that_its_leader_wrote() -> None:
    clock = Clock()
    sightings = Sightings(clock)
    sightings.see(lease_object(1, duration=60))
    clock.now += 59
    assert not sightings.free_for("me")


def test_a_lease_that_was_given_back_or_is_ours_is_free_at_once() -> None:
    sightings = Sightings(Clock())
    sightings.see(lease_object(1, holder=""))
    assert sightings.free_for("me")
    sightings.see(lease_object(2, holder="me"))
    assert sightings.free_for("me")
    assert not sightings.free_for("you")


@pytest.mark.parametrize(("duration", "renew", "period"), [(10, 10.0, 2.0), (15, 2.0, 2.0), (15, 20.0, 2.0)])
def test_times_that_let_two_lead_are_refused(duration: int, renew: float, period: float) -> None:
    with pytest.raises(ValueError, match="two could lead at a time"):
        LeaseTimes(duration, renew, period)
