"""The objects that helm makes of the chart, without a cluster."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML

from cluster_fixtures import Command
from render_chart import template

Object = dict[str, Any]


def read(text: str) -> list[Object]:
    """The documents of a YAML text, without empty ones."""
    return [one for one in YAML(typ="safe").load_all(text) if one]


def rendered(helm: Command, *arguments: str) -> dict[str, Object]:
    """The rendered objects as `Kind/name`; `arguments` are those of `helm template`."""
    found = read(helm(*template(*arguments)))
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in found}
