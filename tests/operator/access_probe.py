"""Who a client is for the API server, and kubeconfigs that differ from the tenant's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from control_plane import ControlPlane
from finetune_operator.kube import Client
from finetune_operator.kube.resources import Resource

WHOAMI = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)


async def user_of(client: Client) -> str:
    found = await client.create(WHOAMI, {"apiVersion": WHOAMI.api_version, "kind": WHOAMI.kind})
    name: str = found["status"]["userInfo"]["username"]
    return name


def whoami(path: Path, context: str | None = None) -> str:
    async def main() -> str:
        async with await Client.connect(str(path), context) as client:
            return await user_of(client)

    return asyncio.run(asyncio.wait_for(main(), 30))


def edited(plane: ControlPlane, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the tenant's kubeconfig, changed."""
    config = json.loads(plane.kubeconfig("tenant").read_text())
    edit(config)
    target.write_text(json.dumps(config))
    return target


def token_of(plane: ControlPlane, user: str) -> str:
    token: str = json.loads(plane.kubeconfig(user).read_text())["users"][0]["user"]["token"]
    return token
