"""The proxy breaks the requests that a test asks it to break, at a real API server, and nothing else."""

from __future__ import annotations

import http.client
import threading
from pathlib import Path

import pytest

from config_maps import config_map, names, watch_from
from control_plane import ControlPlane
from kube_faults import cut_short, drop, hold, lose_answer, refuse
from kube_http import GONE, KubeHttp
from kube_proxy import KubeProxy, kube_proxy


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
