"""The cluster of the end-to-end tests, installed the way docs/install.md says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from cluster import platform
from cluster.cluster import Cluster
from cluster.daemon import end
from cluster.layout import Layout
from cluster_programs import program
from control_plane import KubectlFailed
from end_to_end.tenant import Tenant
from s3_server import REGION, S3Server

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "finetune-operator"
FOLDER = ROOT / "build" / "end-to-end"
"""Where logs and what was measured are found; names, links and addresses differ from those of `make cluster`."""

NAMESPACE = "finetune-system"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
SHOWN = ("nodes", "finetunejobs", "rayjobs", "rayclusters", "pods", "events")


@dataclass(frozen=True)
class Installation:
    """A cluster with KubeRay, an S3 server and the operator from its chart."""

    cluster: Cluster
    s3: S3Server

    def kubectl(self, *arguments: str, input: str | None = None, namespace: str | None = None) -> str:
        """kubectl as an administrator."""
        return self.cluster.plane.kubectl(*arguments, input=input, namespace=namespace)

    def s3_client(self, access_key: str | None = None, secret_key: str | None = None) -> Any:
        """A client of the store, as its administrator or as somebody else."""
        session = boto3.Session(access_key or self.s3.access_key, secret_key or self.s3.secret_key, region_name=REGION)
        config = Config(signature_version="s3v4", retries={"total_max_attempts": 1})
        return session.client("s3", endpoint_url=self.s3.endpoint, config=config)

    def tenant(self, name: str) -> Tenant:
        """A namespace, a bucket of the same name with the demo's model and data, and a Secret with keys to it alone."""
        self.kubectl("create", "namespace", name)
        self.kubectl("label", "namespace", name, RESTRICTED)
        keys = self.s3.add_user(name, name)
        platform.fill(self.cluster.layout, self.s3, name)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": keys.environment()}
        self.kubectl("apply", "-f", "-", input=json.dumps(secret), namespace=name)
        self.cluster.plane.wait_for_service_account(name)
        return Tenant(self.cluster, name, self.s3_client(keys.access, keys.secret))

    @contextmanager
    def runtime(self, name: str, **changes: Any) -> Iterator[str]:
        """A FineTuneRuntime like the default one but for `changes` (a JSON merge patch); gone in the end."""
        spec = merged(platform.runtime(self.cluster.layout, version("ray")), changes)
        body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneRuntime", "metadata": {"name": name}}
        self.kubectl("apply", "-f", "-", input=json.dumps(body | {"spec": spec}))
        yield name
        self.kubectl("delete", "finetuneruntime", name)

    def collect(self, folder: Path) -> None:
        """Write what the cluster knows: objects, events, logs of the operator and of all jobs' pods."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for kind in SHOWN:
            self._write(folder / f"{kind}.yaml", "get", kind, "--all-namespaces", "-o", "yaml")
        self._write(
            folder / "operator.log",
            "logs",
            "-l",
            "app.kubernetes.io/name=finetune-operator",
            "--tail=-1",
            "-n",
            NAMESPACE,
        )
        self._write(folder / "kuberay.log", "logs", "deployment/kuberay-operator", "-n", "kuberay-system")
        with suppress(KubectlFailed):
            pods = json.loads(self.kubectl("get", "pods", "-A", "-l", "finetune.dev/job", "-o", "json"))["items"]
            for pod in pods:
                place, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
                self._write(folder / f"{place}.{name}.log", "logs", name, "-n", place, "--all-containers")

    def _write(self, path: Path, *arguments: str) -> None:
        try:
            text = self.kubectl(*arguments)
        except KubectlFailed as error:
            text = str(error)
        path.write_text(text, encoding="utf-8")


def merged(base: Any, changes: Any) -> Any:
    """A JSON merge patch."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{name: merged(base.get(name), value) for name, value in changes.items()}}


@contextmanager
def installed(layout: Layout, trainer: str, operator: Path, ray: str) -> Iterator[Installation]:
    """Bring a cluster up with everything on it, and take it down again."""
    end(layout.folder)  # of a session that crashed
    shutil.rmtree(layout.folder, ignore_errors=True)
    cluster, server = Cluster(layout, [trainer], [operator]), platform.s3_server(layout)
    try:
        cluster.start()
        server.start()
        platform.fill(layout, server)
        platform.write_files(layout, server, ray)
        cluster.install_kuberay()
        helm_install(cluster, layout.folder / "values.yaml")
        yield Installation(cluster, server)
    finally:
        server.kill()
        cluster.stop()


def helm_install(cluster: Cluster, values: Path) -> None:
    """Install the chart and return when the operator is available."""
    home = cluster.layout.folder / "helm"
    places = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    environment = os.environ | places | {"KUBECONFIG": str(cluster.plane.kubeconfig())}
    words = ["install", "finetune", str(CHART), "--namespace", NAMESPACE, "--create-namespace"]
    command = [str(program("helm")), *words, "--values", str(values), "--wait", "--timeout", "2m"]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
