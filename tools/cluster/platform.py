"""What a platform team brings besides Kubernetes: an S3 store with something in it, and values for the chart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster.kuberay import NAMESPACE as KUBERAY_NAMESPACE
from cluster.layout import Layout
from cluster.node_files import MACHINE_RUNTIME
from operator_image import NAME as OPERATOR_IMAGE
from s3_server import REGION, Keys, S3Server, create_bucket

ROOT = Path(__file__).resolve().parents[2]
S3_PORT = 9000
BUCKET = "demo"
TRAINER_IMAGE = "localhost/finetune-trainer:dev"

LEAVES_AFTER = 5
"""Seconds that pods of jobs stay bound to a node that does not answer; chosen for people who wait."""


def chart_values(layout: Layout, ray_version: str) -> dict[str, Any]:
    """Values of our chart for this cluster: images that its nodes have, small pods, its S3 store."""
    repository, tag = OPERATOR_IMAGE.rsplit(":", 1)
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "kuberay": {"namespace": KUBERAY_NAMESPACE},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "defaultRuntime": {"spec": runtime(layout, ray_version)},
        "tenantRoles": {"runtimeReaders": ["system:authenticated"]},
    }


def runtime(layout: Layout, ray_version: str) -> dict[str, Any]:
    """The spec of a FineTuneRuntime whose pods see this machine's Python environment."""
    tolerations = [
        {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute"}
        | {"tolerationSeconds": LEAVES_AFTER}
        for state in ("not-ready", "unreachable")
    ]
    pod = {"spec": {"runtimeClassName": MACHINE_RUNTIME, "tolerations": tolerations}}
    return {
        "image": TRAINER_IMAGE,
        "imagePullPolicy": "Never",
        "rayVersion": ray_version,
        "sharedMemory": "256Mi",
        "head": {"cpu": "800m", "memory": "4Gi", **pod},
        "worker": {"cpu": "500m", "memory": "4Gi", **pod},
        "storage": {"endpoint": f"http://{layout.host}:{S3_PORT}", "region": REGION},
    }


def s3_server(layout: Layout) -> S3Server:
    """The store, not started; nodes and pods reach it at the machine's address."""
    return S3Server(layout.folder / "s3", host=layout.host, port=S3_PORT)


def fill(layout: Layout, server: S3Server, bucket: str = BUCKET) -> None:
    """Put the data set and the model that examples/quickstart.yaml reads into a bucket, which is made if missing."""
    create_bucket(server, bucket)
    script = (
        "import bucket, pathlib, prepare, rich.console, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "prepare.prepare(folder, prepare.SMALL, rich.console.Console(stderr=True, quiet=True))\n"
        "bucket.upload(folder / 'data', sys.argv[2], 'data')\n"
        "bucket.upload(folder / 'model', sys.argv[2], 'pretrained')\n"
    )
    environment = (
        os.environ
        | server.environment()
        | {
            "PYTHONPATH": str(ROOT / "examples" / "demo"),
            "DS_ACCELERATOR": "cpu",  # without it DeepSpeed warns that it finds no GPU
        }
    )
    command = [sys.executable, "-c", script, str(layout.folder.parent / "cluster-demo"), bucket]
    subprocess.run(command, check=True, env=environment)


def write_files(layout: Layout, server: S3Server, ray_version: str) -> None:
    """Write `values.yaml` for helm, and `s3.env`, the keys of the store, for `kubectl create secret`."""
    values = json.dumps(chart_values(layout, ray_version), indent=2)
    (layout.folder / "values.yaml").write_text(values, encoding="utf-8")
    keys = Keys(server.access_key, server.secret_key).environment()
    file = layout.folder / "s3.env"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={value}\n" for name, value in keys.items()), encoding="utf-8")
