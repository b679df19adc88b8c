"""The ConfigMap of one attempt: the manifest as `finetune run` reads it, and what else the pods read.

It belongs to the attempt and not to the job, because deadlines may change between attempts. As it never changes, the
kubelets need not watch it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from finetune_operator.api.job import Job
from finetune_operator.render.lifecycle import PRE_STOP_SCRIPT
from finetune_operator.render.names import Object, attempt_labels, attempt_name, metadata
from finetune_operator.render.reporting import Operator
from finetune_trainer.spec import to_manifest


def config_map(job: Job, number: int, operator: Operator) -> Object:
    """Manifest, certificate authority of the operator, preStop script."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, attempt_name(job.name, job.uid, number), attempt_labels(job, number)),
        "immutable": True,
        "data": {
            "job.json": job_json(job),
            "ca.crt": operator.ca,
            PRE_STOP_SCRIPT: _script(),
        },
    }


def job_json(job: Job) -> str:
    """The manifest with the uid, which names the run, and without annotations: kubectl's would hold it once more."""
    manifest = to_manifest(job.manifest)
    manifest["metadata"] |= {"namespace": job.namespace, "uid": job.uid}
    manifest["metadata"].pop("annotations", None)
    return json.dumps(manifest, indent=1) + "\n"


@cache
def _script() -> str:
    return files("finetune_operator.render").joinpath(PRE_STOP_SCRIPT).read_text(encoding="utf-8")
