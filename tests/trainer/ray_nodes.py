"""A Ray cluster of several nodes on this machine, in a process of its own: `python ray_nodes.py <nodes>`.

Prints the address, then takes a line at a time from stdin, `add` or `kill`, and answers with the number of nodes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster


@dataclass
class RayNodes:
    """The cluster's `address`, and its nodes of one CPU each beside a head without any."""

    address: str
    _process: subprocess.Popen[str]

    def add(self) -> None:
        """Start one more node."""
        self._ask("add")

    def kill(self) -> None:
        """Kill the newest node with everything that runs on it."""
        self._ask("kill")

    def _ask(self, what: str) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline(), "the cluster's process has ended"


@contextmanager
def ray_nodes(count: int) -> Iterator[RayNodes]:
    """Such a cluster for the length of a with block."""
    command = [sys.executable, str(Path(__file__)), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield RayNodes(json.loads(process.stdout.readline()), process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


def main(count: int) -> None:
    """Serve until stdin ends."""
    sys.stdout, out = sys.stderr, sys.stdout  # what Ray prints is no answer
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(count)]
    print(json.dumps(cluster.address), file=out, flush=True)
    for line in sys.stdin:
        if line.strip() == "add":
            nodes.append(cluster.add_node(num_cpus=1))
        else:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        print(len(nodes), file=out, flush=True)
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(int(sys.argv[1]))
