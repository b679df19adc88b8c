"""A Kubernetes with nodes on this machine: `up`, `down`, `node kill|start|cut|heal N`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.daemon import PID, READY, end, log_of, serve
from cluster.kernel import ip
from cluster.layout import Layout, load
from cluster.machine import CannotRun, check_machine

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "cluster"
TRY = """
In this terminal:

    export PATH={folder}/bin:$PATH KUBECONFIG={folder}/admin.kubeconfig
    helm install finetune {root}/charts/finetune-operator --namespace finetune-system --create-namespace \\
        --values {folder}/values.yaml --wait
    kubectl create secret generic s3 --from-env-file={folder}/s3.env
    kubectl apply -f {root}/examples/quickstart.yaml
    kubectl get finetunejobs --watch

Logs are in {folder}. `make cluster-down` ends all.
"""
START_SECONDS = 1800.0
"""On a new machine the programs are built first, which takes minutes."""


def up(layout: Layout, kuberay: bool) -> None:
    """Start a cluster that outlives this command, and return when it is there; SystemExit when it does not come."""
    try:
        check_machine()
    except CannotRun as error:
        sys.exit(f"cannot run a cluster here: {error}")
    if end(layout.folder):
        print(f"what an earlier cluster left in {layout.folder} is removed")
    layout.folder.mkdir(parents=True, exist_ok=True)
    words = ["serve", "--nodes", str(layout.nodes), *([] if kuberay else ["--no-kuberay"])]
    with log_of(layout.folder).open("wb") as log:
        command = [sys.executable, "-m", "cluster", "--folder", str(layout.folder), *words]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    shown, deadline = 0, time.monotonic() + START_SECONDS
    while not (layout.folder / READY).exists():
        shown = _show(log_of(layout.folder), shown)
        if child.poll() is not None or time.monotonic() > deadline:
            _show(log_of(layout.folder), shown)
            end(layout.folder)
            sys.exit(f"the cluster did not come up, see {layout.folder}")
        time.sleep(0.1)
    _show(log_of(layout.folder), shown)
    print(TRY.format(folder=layout.folder, root=ROOT))


def _show(log: Path, shown: int) -> int:
    text = log.read_text(encoding="utf-8", errors="replace")
    print(text[shown:], end="", flush=True)
    return len(text)


def node(layout: Layout, verb: str, number: int) -> None:
    """Kill, start, cut off or heal one node."""
    if number not in layout.numbers:
        sys.exit(f"node {number}: write 1 to {layout.nodes}")
    stays_down = layout.node(number) / "down"
    match verb:
        case "kill":
            stays_down.touch()
        case "start":
            stays_down.unlink(missing_ok=True)
        case _:
            ip("link", "set", layout.link(number), "down" if verb == "cut" else "up")


def main() -> None:
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where its files go")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("up", "bring a cluster up"), ("serve", "the same, in the foreground")):
        bring = verbs.add_parser(verb, help=text)
        bring.add_argument("--nodes", type=int, default=2)
        bring.add_argument("--no-kuberay", action="store_true", help="leave KubeRay out")
    verbs.add_parser("down", help="end it and remove what it left")
    one = verbs.add_parser("node", help="let something happen to a node")
    one.add_argument("what", choices=["kill", "start", "cut", "heal"])
    one.add_argument("number", type=int)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    match arguments.verb:
        case "up":
            up(Layout(folder, nodes=arguments.nodes), not arguments.no_kuberay)
        case "serve":
            (folder / PID).write_text(str(os.getpid()), encoding="ascii")
            for ending in (signal.SIGINT, signal.SIGTERM):
                signal.signal(ending, lambda *_: sys.exit(0))  # by way of every `finally`
            serve(Layout(folder, nodes=arguments.nodes), not arguments.no_kuberay)
        case "down":
            print("the cluster is gone" if end(folder) else f"there is no cluster in {folder}")
        case "node":
            node(load(folder), arguments.what, arguments.number)


if __name__ == "__main__":
    main()
