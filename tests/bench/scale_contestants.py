"""The two operators of the scale bench: how each is started, what a user applies to it, and what it makes of that."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from child import Child
from cluster_programs import kubeflow_trainer_crds, program
from control_plane import ControlPlane
from finetune_operator.kube import Object, Resource
from finetune_operator.kube.resources import JOBS, RAYJOBS, RUNTIMES
from looks import manifest
from ranks import REPOSITORY
from running import free_port

HOME, NAMESPACE = "finetune-system", "team-a"
LIFTED = 10_000
"""Requests per second that no operator reaches here: the client's limit is then none."""

TRAIN_JOBS = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
TRAIN_RUNTIMES = Resource(
    "trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", "ClusterTrainingRuntime", False
)
JOB_SETS = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")


@dataclass(frozen=True)
class Contestant:
    """One operator with its settings. `job` makes a `child`; `runtime` is there before."""

    name: str
    job: Resource
    child: Resource
    runtime: Resource

    def crds(self) -> Sequence[Path]:
        """Folders of CustomResourceDefinitions."""
        raise NotImplementedError

    def runtime_body(self) -> Object:
        """What jobs run on."""
        raise NotImplementedError

    def job_body(self, name: str) -> Object:
        """What a user applies: two workers, everything else as its docs begin."""
        raise NotImplementedError

    def process(self, plane: ControlPlane) -> Child:
        """The operator, not started."""
        raise NotImplementedError


@dataclass(frozen=True)
class Ours(Contestant):
    """This repository's operator; `limit` requests per second, or what it does by default. Ports 0: free ones."""

    limit: int | None = None
    health_port: int = 0
    progress_port: int = 0

    def crds(self) -> Sequence[Path]:
        return [REPOSITORY / "charts" / "finetune-operator" / "crds"]

    def runtime_body(self) -> Object:
        found: Object = yaml.safe_load((REPOSITORY / "examples" / "runtimes" / "default.yaml").read_text())
        return found

    def job_body(self, name: str) -> Object:
        return manifest() | {"metadata": {"name": name, "namespace": NAMESPACE}}

    def process(self, plane: ControlPlane) -> Child:
        limits = [] if self.limit is None else [f"--qps={self.limit}", f"--burst={self.limit}"]
        ports = [f"--progress-port={self.progress_port or free_port()}"]
        ports += [f"--health-port={self.health_port or free_port()}"]
        command = [sys.executable, "-m", "finetune_operator.main", *limits, *ports]
        environment = {"KUBECONFIG": str(plane.kubeconfig()), "POD_NAMESPACE": HOME}
        return Child("finetune-operator", command, plane.folder, environment)


@dataclass(frozen=True)
class KubeflowTrainer(Contestant):
    """Kubeflow Trainer's controller manager as its release configures it, but for the limit. Its webhooks are left out.

    Nothing calls them here, which spares it two calls per TrainJob.
    """

    limit: int | None = None
    workers: int = 5  # of its release

    def crds(self) -> Sequence[Path]:
        return kubeflow_trainer_crds()

    def runtime_body(self) -> Object:
        """The runtime torch-distributed of its release."""
        container = {"name": "node", "image": "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"}
        step = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
        template = {"metadata": {"labels": step}, "spec": {"template": {"spec": {"containers": [container]}}}}
        replicated = {"name": "node", "template": template}
        spec = {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": {"spec": {"replicatedJobs": [replicated]}}}
        labels = {"trainer.kubeflow.org/framework": "torch"}
        metadata = {"name": "torch-distributed", "labels": labels}
        return _object(self.runtime, metadata, spec)

    def job_body(self, name: str) -> Object:
        spec = {"runtimeRef": {"name": "torch-distributed"}, "trainer": {"numNodes": 2}}
        return _object(self.job, {"name": name, "namespace": NAMESPACE}, spec)

    def process(self, plane: ControlPlane) -> Child:
        certificates = plane.folder / "k8s-webhook-server" / "serving-certs"
        certificates.mkdir(parents=True, exist_ok=True)
        certificate, key = plane.authority.issue("trainer", ["127.0.0.1"], ["localhost"])
        (certificates / "tls.crt").write_bytes(certificate)
        (certificates / "tls.key").write_bytes(key)
        config = plane.folder / "trainer.yaml"
        config.write_text(json.dumps(self._configuration()))
        environment = {"KUBECONFIG": str(plane.kubeconfig()), "TMPDIR": str(plane.folder)}
        command: list[str | Path] = [program("kubeflow-trainer"), f"--config={config}"]
        return Child("kubeflow-trainer", command, plane.folder, environment)

    def _configuration(self) -> Mapping[str, Any]:
        """Its release's, on free ports, with certificates of ours."""
        group = "trainer.kubeflow.org"
        single = (f"TrainingRuntime.{group}", f"ClusterTrainingRuntime.{group}")
        client = {} if self.limit is None else {"clientConnection": {"qps": self.limit, "burst": self.limit}}
        return {
            "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
            "kind": "Configuration",
            "health": {"healthProbeBindAddress": f"127.0.0.1:{free_port()}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"host": "127.0.0.1", "port": free_port()},
            "leaderElection": {
                "leaderElect": True,
                "resourceName": group,
                "resourceNamespace": HOME,
                "leaseDuration": "15s",
                "renewDeadline": "10s",
                "retryPeriod": "2s",
            },
            "controller": {"groupKindConcurrency": {f"TrainJob.{group}": self.workers} | dict.fromkeys(single, 1)},
            "certManagement": {"enable": False},
            **client,
        }


def ours(name: str = "ours", limit: int | None = None) -> Ours:
    """This repository's operator."""
    return Ours(name, JOBS, RAYJOBS, RUNTIMES, limit=limit)


def kubeflow_trainer(name: str = "trainer", limit: int | None = None, workers: int = 5) -> KubeflowTrainer:
    """Kubeflow Trainer."""
    return KubeflowTrainer(name, TRAIN_JOBS, JOB_SETS, TRAIN_RUNTIMES, limit=limit, workers=workers)


def _object(resource: Resource, metadata: Object, spec: Object) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}
