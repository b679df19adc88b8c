"""The two CustomResourceDefinitions, as documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_operator.api.cel import JOB_RULES, RUNTIME_RULES, Rule
from finetune_operator.api.cel.rule import validation
from finetune_operator.api.job import GROUP
from finetune_operator.api.runtime import FineTuneRuntime, RuntimeSpec
from finetune_operator.api.status import JobStatus
from finetune_operator.crd.columns import JOB_COLUMNS, RUNTIME_COLUMNS, Column
from finetune_operator.crd.describe import describe
from finetune_operator.crd.structural import Schema, structural
from finetune_trainer.spec import FineTuneJob, JobSpec
from finetune_trainer.spec.base import Part

VERSION = "v1alpha1"
SUPPORTED_SINCE = "1.30"
ENVELOPE = {
    "apiVersion": {"type": "string", "description": "Version of this format."},
    "kind": {"type": "string", "description": "Kind of this object."},
    "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},  # for the path in messages about it
}


def job_crd() -> dict[str, Any]:
    """FineTuneJob: namespaced, with a status of its own that only the operator writes."""
    schema = _root(FineTuneJob, {"spec": JobSpec, "status": JobStatus}, JOB_RULES)
    names = {**_names("FineTuneJob", "ftj"), "categories": ["all", "finetune"]}
    return _crd(names, "Namespaced", schema, JOB_COLUMNS, {"status": {}})


def runtime_crd() -> dict[str, Any]:
    """FineTuneRuntime: one for the whole cluster. It is in no category: a tenant, who may read what is in a namespace,
    would get an error from `kubectl get all`."""
    schema = _root(FineTuneRuntime, {"spec": RuntimeSpec}, RUNTIME_RULES)
    return _crd(_names("FineTuneRuntime", "ftr"), "Cluster", schema, RUNTIME_COLUMNS, {})


def crds() -> dict[str, dict[str, Any]]:
    """Both documents by plural name."""
    return {document["spec"]["names"]["plural"]: document for document in (job_crd(), runtime_crd())}


def _names(kind: str, short: str) -> dict[str, Any]:
    singular = kind.lower()
    return {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": f"{singular}s",
        "singular": singular,
        "shortNames": [short],
    }


def _crd(
    names: dict[str, Any], scope: str, schema: Schema, columns: Sequence[Column], subresources: dict[str, Any]
) -> dict[str, Any]:
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": list(columns),
        **({"subresources": subresources} if subresources else {}),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{GROUP}"},
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": [version]},
    }


def _root(kind: type[Part], parts: dict[str, type[Part]], rules: Sequence[Rule]) -> Schema:
    members = {name: structural(part, name) for name, part in parts.items()}
    root: Schema = {
        "description": " ".join((kind.__doc__ or "").split()),
        "type": "object",
        "required": ["spec"],
        "properties": {**ENVELOPE, **members},
    }
    for name, part in parts.items():
        describe(members[name], part, f"{name}.")
    for rule in rules:
        place(root, rule.at).setdefault("x-kubernetes-validations", []).append(validation(rule))
    return root


def place(schema: Schema, path: str) -> Schema:
    """The schema of the object at `path`, where `[]` is the elements of a list. Raises KeyError if there is none."""
    for name in filter(None, path.split(".")):
        schema = schema["properties"][name.removesuffix("[]")]
        schema = schema["items"] if name.endswith("[]") else schema
    return schema
