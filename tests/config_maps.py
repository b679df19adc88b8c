"""ConfigMaps as the simplest objects to try an API server with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kube_http import KubeHttp


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
