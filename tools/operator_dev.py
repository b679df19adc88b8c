"""The operator against a real control plane on this machine, to play with kubectl: what `make operator-dev` runs.

There is no node: the pods of a job are made and stay Pending. Ctrl-C ends all; nothing is kept but the logs.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster_programs import kuberay_crds, program
from control_plane import ControlPlane
from s3_server import free_port, run_to_its_end

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "operator-dev"
CRDS = ROOT / "charts" / "finetune-operator" / "crds"
RUNTIME = ROOT / "examples" / "runtimes" / "default.yaml"
OPERATOR = "finetune_operator.main"
NAMESPACE = "finetune-system"
HOST = "127.0.0.1"
"""Where the operator listens, on free ports: for this machine only, and beside whatever else runs on it."""

TRY = """
In another terminal:

    export PATH={folder}:$PATH KUBECONFIG={kubeconfig}
    kubectl apply -f {root}/examples/quickstart.yaml
    kubectl get finetunejobs,rayjobs,pods
    kubectl describe finetunejob quickstart

Logs are in {folder}. Ctrl-C ends all.
"""


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder`, and what an earlier one left there; SystemExit when one runs."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"a control plane runs in {folder}: end it, or give another folder with --folder")
        shutil.rmtree(folder, ignore_errors=True)
        yield


def prepare(plane: ControlPlane, kuberay: bool) -> None:
    """Bring up everything that the operator finds in a cluster: the new kinds, a runtime, KubeRay, its own rights."""
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:5.1f} s  {what}", flush=True)

    plane.start()
    say(f"Kubernetes serves at {plane.url}")
    plane.install_crds(*([CRDS] if CRDS.exists() else []), kuberay_crds())
    plane.start_controllers()
    plane.kubectl("create", "namespace", NAMESPACE)
    plane.kubectl("create", "clusterrolebinding", "operator", "--clusterrole=cluster-admin", "--user=operator")
    say("the kinds of jobs and clusters are known")
    if CRDS.exists():
        plane.kubectl("apply", "--server-side", "-f", str(RUNTIME))
        say(f"there is a runtime, from {RUNTIME.relative_to(ROOT)}")
    if kuberay:
        plane.start_kuberay()
        say("KubeRay runs")


def run(plane: ControlPlane, with_operator: bool) -> int:
    """Run the operator until it ends, or wait for Ctrl-C where it is left out, and return the exit code."""
    here = os.environ | {"KUBECONFIG": str(plane.kubeconfig("operator")), "POD_NAMESPACE": NAMESPACE}
    if with_operator:
        progress, health = free_port(), free_port()
        ports = [f"--progress-port={progress}", f"--health-port={health}"]
        print(f"The operator's metrics are at http://{HOST}:{health}/metrics", flush=True)
        return run_to_its_end([sys.executable, "-m", OPERATOR, f"--listen={HOST}", *ports], here)
    print(f"The operator is yours to start: KUBECONFIG={here['KUBECONFIG']} python -m {OPERATOR}", flush=True)
    while True:
        signal.pause()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where its files go; emptied first")
    parser.add_argument("--no-kuberay", action="store_true", help="leave KubeRay's operator out")
    parser.add_argument("--no-operator", action="store_true", help="leave our operator out, to start it in a debugger")
    arguments = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: sys.exit(0))  # by way of every `finally`
    with_operator = not arguments.no_operator and importlib.util.find_spec(OPERATOR) is not None
    with sole_use(arguments.folder):
        plane = ControlPlane(arguments.folder)
        try:
            prepare(plane, not arguments.no_kuberay)
            (plane.folder / "kubectl").symlink_to(program("kubectl"))
            print(TRY.format(folder=plane.folder, kubeconfig=plane.kubeconfig("admin"), root=ROOT), flush=True)
            return run(plane, with_operator)
        finally:
            plane.stop()


if __name__ == "__main__":
    sys.exit(main())
