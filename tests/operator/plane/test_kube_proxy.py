"""The proxy breaks what a test asks it to break, at a real API server, and nothing else."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlane, KubectlFailed
from kube_faults import cut_short, drop, expire, hold, lose_answer, refuse, stall
from kube_http import GONE, KubeHttp
from kube_proxy import KubeProxy, kube_proxy


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[KubeProxy]:
    with kube_proxy(control_plane) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: KubeProxy) -> KubeHttp:
    return KubeHttp(proxy.kubeconfig("admin"))


@pytest.fixture
def direct(control_plane: ControlPlane) -> KubeHttp:
    return KubeHttp(control_plane.kubeconfig("admin"))


@pytest.fixture
def maps(namespace: str) -> str:
    """Path of the ConfigMaps of the test's namespace."""
    return f"/api/v1/namespaces/{namespace}/configmaps"


def config_map(name: str, value: str = "1") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}}


def names(client: KubeHttp, maps: str) -> set[str]:
    found = {item["metadata"]["name"] for item in client.call("GET", maps).body["items"]}
    return found - {"kube-root-ca.crt"}


def watch_from(client: KubeHttp, reader: KubeHttp, maps: str) -> Iterator[dict[str, Any]]:
    """Watch, as `client`, from what `reader` lists now."""
    version = reader.call("GET", maps).body["metadata"]["resourceVersion"]
    return client.watch(f"{maps}?watch=1&resourceVersion={version}")


def seen_in(event: dict[str, Any]) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"]["name"]


def test_kubectl_works_through_it_as_any_user(proxy: KubeProxy, control_plane: ControlPlane, namespace: str) -> None:
    config = proxy.kubeconfig("tenant")
    whoami = ("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    assert control_plane.kubectl(*whoami, user=config) == "tenant"
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]
    account = proxy.kubeconfig(control_plane.with_user("writer", rules, namespace))
    control_plane.kubectl("create", "configmap", "a", "--from-literal=value=1", user=account)
    control_plane.kubectl("wait", "--for=create", "configmap/a", user=account)
    assert control_plane.kubectl("get", "configmap", "a", "-o", "jsonpath={.data.value}", user=account) == "1"
    assert proxy.count("create", "configmaps") == 1


@pytest.mark.parametrize(
    ("code", "reason", "retry_after"),
    [(409, "Conflict", None), (410, "Expired", None), (429, "TooManyRequests", 7), (500, "InternalError", None)],
)
def test_a_refused_request_never_reaches_the_server(
    proxy: KubeProxy, through: KubeHttp, maps: str, code: int, reason: str, retry_after: int | None
) -> None:
    proxy.inject("create", refuse(code, retry_after=retry_after), resource="configmaps", times=2)
    for _ in range(2):
        reply = through.call("POST", maps, config_map("a"))
        assert (reply.status, reply.body["kind"], reply.body["reason"]) == (code, "Status", reason)
        assert reply.headers.get("retry-after") == (None if retry_after is None else str(retry_after))
    assert names(through, maps) == set()
    assert through.call("POST", maps, config_map("a")).status == 201
    assert [step.verb for step in proxy.steps] == ["create"]


def test_only_requests_that_fit_are_broken(proxy: KubeProxy, through: KubeHttp, maps: str) -> None:
    proxy.inject("get", refuse(500), resource="configmaps", name="a")
    proxy.inject("delete", refuse(503))
    assert through.call("POST", maps, config_map("a")).status == 201
    assert through.call("POST", maps, config_map("b")).status == 201
    assert through.call("GET", f"{maps}/b").status == 200
    assert through.call("GET", f"{maps}/a").status == 500
    assert through.call("DELETE", f"{maps}/b").status == 503
    assert names(through, maps) == {"a", "b"}


def test_a_dropped_request_is_not_applied_and_gets_no_answer(
    proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str
) -> None:
    proxy.inject("create", drop())
    with pytest.raises(GONE):
        through.call("POST", maps, config_map("a"))
    assert names(direct, maps) == set()


def test_a_lost_answer_is_one_to_a_request_that_was_applied(
    proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str
) -> None:
    proxy.inject("create", lose_answer())
    proxy.inject("create", lose_answer(500))
    with pytest.raises(GONE):
        through.call("POST", maps, config_map("a"))
    assert through.call("POST", maps, config_map("b")).status == 500
    assert names(direct, maps) == {"a", "b"}


def test_an_answer_cut_short_is_no_answer(proxy: KubeProxy, through: KubeHttp, maps: str) -> None:
    proxy.inject("list", cut_short(after=20), resource="configmaps")
    with pytest.raises(http.client.IncompleteRead):
        through.call("GET", maps)


def test_a_held_request_passes_when_the_test_says_so(
    proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str
) -> None:
    release = threading.Event()
    proxy.inject("create", hold(release))
    held = threading.Thread(target=through.call, args=("POST", maps, config_map("a")))
    held.start()
    assert names(direct, maps) == set()
    release.set()
    held.join()
    assert names(direct, maps) == {"a"}


def test_after_the_cut_nothing_is_applied_until_it_is_mended(
    proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str
) -> None:
    events = watch_from(through, direct, maps)
    happened = proxy.cut_after(2)
    assert through.call("POST", maps, config_map("a")).status == 201
    assert not happened.is_set()
    with pytest.raises(GONE):
        through.call("POST", maps, config_map("b"))
    assert happened.is_set()
    for method, path in [("POST", maps), ("GET", maps)]:
        with pytest.raises(GONE):
            through.call(method, path, config_map("c") if method == "POST" else None)
    with pytest.raises(GONE):
        list(events)
    assert names(direct, maps) == {"a", "b"}
    proxy.mend()
    assert through.call("POST", maps, config_map("c")).status == 201


def test_writes_wait_for_the_hook_of_the_one_before(
    proxy: KubeProxy, through: KubeHttp, direct: KubeHttp, maps: str
) -> None:
    proxy.cut_after(1)
    replies: list[int] = []

    def create(name: str) -> None:
        try:
            replies.append(through.call("POST", maps, config_map(name)).status)
        except GONE:
            replies.append(0)

    writers = [threading.Thread(target=create, args=(f"m{number}",)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert replies == [0] * 8
    assert len(names(direct, maps)) == 1


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


@pytest.mark.cluster
def test_while_the_api_server_is_down_requests_are_reset(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "plane")
    try:
        plane.start()
        with kube_proxy(plane) as proxy:
            through = KubeHttp(proxy.kubeconfig())
            assert through.call("GET", "/api/v1/namespaces").status == 200
            plane.api_server.kill()
            with pytest.raises(GONE):
                through.call("GET", "/api/v1/namespaces")
            plane.api_server.start()
            plane.wait_until_ready()
            assert through.call("GET", "/api/v1/namespaces").status == 200
    finally:
        plane.stop()
