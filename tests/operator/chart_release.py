"""One release of the chart in a real cluster."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from cluster_fixtures import Command
from control_plane import ControlPlane
from render_chart import CHART

HOME = "finetune-system"
OPERATOR = "finetune-operator"
DEFINITIONS = ("finetunejobs.finetune.dev", "finetuneruntimes.finetune.dev")


class Release:
    """The chart in the namespace HOME of `plane`, by `helm`; CalledProcessError with its stderr when it refuses."""

    def __init__(self, plane: ControlPlane, helm: Command, name: str = "finetune") -> None:
        self.plane, self._helm, self.name = plane, helm, name

    def install(self, *arguments: str) -> str:
        """Install it and return the notes."""
        return self._run("install", self.name, str(CHART), "--create-namespace", *arguments)

    def upgrade(self, *arguments: str) -> str:
        """Upgrade it to the chart as it is."""
        return self._run("upgrade", self.name, str(CHART), *arguments)

    def uninstall(self) -> str:
        """Uninstall it."""
        return self._run("uninstall", self.name)

    def renew_definitions(self) -> None:
        """What docs/install.md and the refusal say: `helm show crds <chart> | kubectl apply ...`."""
        shown = self._helm("show", "crds", str(CHART))
        self.plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=shown)

    def get(self, kind: str, name: str = OPERATOR) -> dict[str, Any]:
        """An object in HOME, or one that belongs to no namespace."""
        found: dict[str, Any] = json.loads(self.plane.kubectl("get", kind, name, "-o", "json", namespace=HOME))
        return found

    def remove(self) -> None:
        """Uninstall it if it is there, and bring the definitions up to date, without any job."""
        try:
            self.uninstall()
        except subprocess.CalledProcessError as error:
            if "not found" not in error.stderr:
                raise
        self.renew_definitions()
        self.plane.kubectl("delete", "finetunejobs", "--all", "--all-namespaces")

    def remove_definitions(self) -> None:
        """What nobody does to a cluster with jobs."""
        self.plane.kubectl("delete", "crd", "--ignore-not-found", "--timeout=60s", *DEFINITIONS)

    def _run(self, *arguments: str) -> str:
        kubeconfig = f"--kubeconfig={self.plane.kubeconfig()}"
        return self._helm(*arguments, f"--namespace={HOME}", kubeconfig)
