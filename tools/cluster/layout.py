"""Where a cluster has its files, and what its addresses and links are called."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

LONGEST_NAME = 11
"""Characters of a name; a link `<name>-<node>` has at most 15."""


@dataclass(frozen=True)
class Layout:
    """One cluster. Another one beside it needs another folder, name and address ranges.

    Nodes and pods have `<pods>.0.0/16`, Services `<services>.0.0/16`; the bridge, the cgroup and the links of the
    nodes are called after `name`.
    """

    folder: Path
    name: str = "finetune"
    pods: str = "10.88"
    services: str = "10.96"
    nodes: int = 2

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= LONGEST_NAME:
            raise ValueError(f"name {self.name!r}: write 1 to {LONGEST_NAME} characters, it begins names of links")
        if not 1 <= self.nodes <= 9:
            raise ValueError(f"nodes {self.nodes}: write 1 to 9")

    @property
    def host(self) -> str:
        """This machine, as nodes and pods see it; the API server and the S3 server listen here."""
        return f"{self.pods}.0.1"

    @property
    def dns(self) -> str:
        """CoreDNS."""
        return f"{self.services}.0.10"

    @property
    def kubernetes_service(self) -> str:
        """The Service `kubernetes`."""
        return f"{self.services}.0.1"

    @property
    def numbers(self) -> range:
        """The numbers of the nodes, from 1."""
        return range(1, self.nodes + 1)

    @property
    def programs(self) -> Path:
        """The programs of a node by their usual names."""
        return self.folder / "bin"

    @property
    def sysctls(self) -> Path:
        """What the kernel's settings were before the kubelets changed them."""
        return self.folder / "sysctls.json"

    def node(self, number: int) -> Path:
        """What a node writes: its /var/lib and /var/log, and its configuration."""
        return self.folder / node_name(number)

    def address(self, number: int) -> str:
        """The node."""
        return f"{self.pods}.{number}.1"

    def link(self, number: int) -> str:
        """This machine's end of the cable to the node."""
        return f"{self.name}-{number}"

    def mac(self, number: int) -> str:
        """A fixed address of the bridge of a node (0: of this machine): by itself a bridge takes that of a port."""
        return f"02:58:{int(self.pods.split('.')[1]):02x}:00:00:{number:02x}"

    def save(self) -> None:
        """Write it where `load` finds it."""
        text = json.dumps(asdict(self) | {"folder": str(self.folder)})
        (self.folder / "layout.json").write_text(text, encoding="utf-8")


def load(folder: Path) -> Layout:
    """The layout of the cluster in a folder; FileNotFoundError when there is none."""
    found = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
    return Layout(**found | {"folder": folder.resolve()})


def node_name(number: int) -> str:
    """The name of a node, also its host name."""
    return f"node-{number}"
