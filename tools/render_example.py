"""Prints, as YAML, the objects of the first attempt of a manifest: `render_example.py <manifest> <runtime>`.

`make generate` writes them to tests/operator/render/golden/, so that a change of what the operator renders shows in a
review. What the API server and the operator's own start-up would add is made up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from finetune_operator.api.job import Job, read_job
from finetune_operator.api.runtime import FineTuneRuntime
from finetune_operator.render import Operator, objects
from finetune_trainer.spec.yaml_reader import read_yaml

UID = "3f0c6b1e-0000-4000-8000-000000000001"
OPERATOR = Operator(
    namespace="finetune-system",
    service="finetune-operator.finetune-system.svc",
    port=8443,
    ca="-----BEGIN CERTIFICATE-----\n(of the operator's authority)\n-----END CERTIFICATE-----\n",
    audience_prefix="finetune.dev",
    kuberay_namespace="kuberay-system",
    metrics_namespace="monitoring",
)
ADDED = {"uid": UID, "generation": 1, "resourceVersion": "1", "creationTimestamp": "2026-11-27T12:00:00Z"}


def job_of(path: Path) -> Job:
    """The manifest as the API server would hold it."""
    document = read_yaml(path.read_text(encoding="utf-8"))
    document["metadata"] = {"namespace": "default", **document["metadata"], **ADDED}
    return read_job(document)


def runtime_of(path: Path) -> FineTuneRuntime:
    """The runtime in a file."""
    return FineTuneRuntime.model_validate_json(json.dumps(read_yaml(path.read_text(encoding="utf-8"))))


def readable(value: Any) -> Any:
    """The same with texts of several lines as YAML's literal blocks."""
    if isinstance(value, dict):
        return {name: readable(member) for name, member in value.items()}
    if isinstance(value, list):
        return [readable(element) for element in value]
    return LiteralScalarString(value) if isinstance(value, str) and "\n" in value else value


def main(arguments: list[str]) -> int:
    """Render the manifest `arguments[0]` on the runtime `arguments[1]`."""
    manifest, runtime = (Path(argument) for argument in arguments)
    writer = YAML()
    writer.width = 4096
    writer.representer.ignore_aliases = lambda *_: True
    sys.stdout.write(f"# {manifest} on {runtime}, attempt 1. Generated: make generate\n")
    rendered = objects(job_of(manifest), runtime_of(runtime).spec, 1, OPERATOR)
    writer.dump_all([readable(one) for one in rendered], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
