"""Through the proxy a client can see the past, miss events, and watch a stream that stalls or ends."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from config_maps import config_map, names, seen_in, watch_from
from control_plane import ControlPlane, KubectlFailed
from kube_faults import expire, stall
from kube_http import GONE, KubeHttp
from kube_proxy import KubeProxy


def test_frozen_reads_are_of_the_past_and_writes_of_the_present(
    proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str
) -> None:
    direct.call("POST", maps, config_map("old", "1"))
    frozen_at = proxy.freeze()
    direct.call("DELETE", f"{maps}/old")
    made = through.call("POST", maps, config_map("new"))
    assert made.status == 201
    assert names(through, maps) == {"old"}
    assert names(direct, maps) == {"new"}
    assert through.call("GET", maps).body["metadata"]["resourceVersion"] == str(frozen_at)
    old = through.call("GET", f"{maps}/old")
    assert (old.status, old.body["kind"], old.body["apiVersion"], old.body["data"]) == (
        200,
        "ConfigMap",
        "v1",
        {"value": "1"},
    )
    missing = through.call("GET", f"{maps}/new")
    assert (missing.status, missing.body["message"]) == (404, 'configmaps "new" not found')
    later = through.call("GET", f"{maps}?resourceVersion={made.body['metadata']['resourceVersion']}")
    assert (later.status, later.body["reason"]) == (504, "Timeout")
    proxy.thaw()
    assert names(through, maps) == {"new"}


def test_frozen_watches_hold_back_what_is_later(
    proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str
) -> None:
    events = watch_from(through, direct, maps)
    direct.call("POST", maps, config_map("before"))
    proxy.freeze("configmaps")
    direct.call("POST", maps, config_map("after"))
    assert seen_in(next(events)) == ("ADDED", "before")
    held: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: held.append(next(events)))
    waiting.start()
    waiting.join(0.3)  # it must not come: the time is how long we look
    assert held == []
    proxy.thaw()
    waiting.join(10)
    assert [seen_in(event) for event in held] == [("ADDED", "after")]


def test_a_freeze_of_one_resource_leaves_the_others_current(
    proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str
) -> None:
    proxy.freeze("pods")
    direct.call("POST", maps, config_map("a"))
    assert names(through, maps) == {"a"}


def test_hidden_events_are_missed(proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str) -> None:
    events = watch_from(through, direct, maps)
    proxy.hide(lambda event: event["object"]["metadata"]["name"] == "hidden")
    direct.call("POST", maps, config_map("hidden"))
    direct.call("POST", maps, config_map("shown"))
    assert seen_in(next(events)) == ("ADDED", "shown")
    proxy.show()
    direct.call("DELETE", f"{maps}/hidden")
    assert seen_in(next(events)) == ("DELETED", "hidden")


@pytest.mark.parametrize("injected", [True, False], ids=["from its beginning", "while it is open"])
def test_a_stalled_watch_says_nothing_and_stays_open(
    proxy: KubeProxy, direct: KubeHttp, maps: str, injected: bool
) -> None:
    impatient = KubeHttp(proxy.kubeconfig("admin"), timeout=0.5)
    patient = KubeHttp(proxy.kubeconfig("admin"))
    if injected:
        proxy.inject("watch", stall(), times=2)
    both = [watch_from(client, direct, maps) for client in (impatient, patient)]
    if not injected:
        assert proxy.stall_watches("configmaps") == 2
    direct.call("POST", maps, config_map("a"))
    with pytest.raises(TimeoutError):
        next(both[0])
    proxy.resume_watches()
    assert seen_in(next(both[1])) == ("ADDED", "a")


def test_watches_end_in_each_of_the_ways_they_do(
    proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str
) -> None:
    ended = watch_from(through, direct, maps)
    assert proxy.end_watches("configmaps") == 1
    assert list(ended) == []
    reset = watch_from(through, direct, maps)
    proxy.end_watches(reset=True)
    with pytest.raises(GONE):
        list(reset)
    told = watch_from(through, direct, maps)
    proxy.end_watches(last={"type": "ERROR", "object": {"code": 500}})
    assert [event["object"]["code"] for event in told] == [500]
    proxy.inject("watch", expire())
    expired = list(watch_from(through, direct, maps))
    assert [(event["type"], event["object"]["code"], event["object"]["reason"]) for event in expired] == [
        ("ERROR", 410, "Expired")
    ]


def test_a_watch_ends_here_when_its_client_leaves(
    proxy: KubeProxy, control_plane: ControlPlane, namespace: str, direct: KubeHttp, maps: str
) -> None:
    leaves = ("get", "configmaps", "--watch-only", "--request-timeout=1s")
    with suppress(KubectlFailed):
        control_plane.kubectl(*leaves, namespace=namespace, user=proxy.kubeconfig())
    assert proxy.count("watch", "configmaps") == 1
    deadline = time.monotonic() + 10
    while proxy.watches:
        assert time.monotonic() < deadline
        names(direct, maps)  # a request's time passes
