"""Where a model comes from, in enough detail to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_trainer.model.adapter_folder import weights_digest
from finetune_trainer.model.fingerprint import fingerprint, hub_revision
from finetune_trainer.spec import FineTuneJob, to_manifest
from finetune_trainer.store import Checkpoint

MANIFEST = "manifest.json"
SECRET = ("storage", "hub")  # what the manifest says of credentials: names of secrets, of no use to anybody else


def lineage(
    job: FineTuneJob, model_path: Path, dataset: str, entry: Checkpoint, log_uri: str, versions: Mapping[str, Any]
) -> dict[str, Any]:
    """JSON: base model, data, checkpoint, package versions and the manifest without what it says of credentials.

    A base model from a hub has its commit as `revision`. `dataset` is the id of the training data's index, `log_uri`
    the run's folder, whose log holds `entry`.
    """
    data = job.spec.data
    return {
        "base": {
            "uri": job.spec.model.uri,
            "revision": hub_revision(model_path),
            **fingerprint(model_path),
            **made_by(model_path),
        },
        "data": {"train": [source.uri for source in data.train], "id": dataset, "eval": [s.uri for s in data.eval]},
        "checkpoint": {"uri": log_uri, "step": entry.step, "seq": entry.seq, "committedAt": entry.time.isoformat()},
        "versions": dict(versions),
        "job": public_manifest(job),
    }


def of_adapter(job: FineTuneJob, folder: Path | None) -> dict[str, Any]:
    """JSON: the adapter that the run began with, by its address, use and SHA-256; nothing where there was none.

    Where it was merged first, the hash of the base is that of the merged model.
    """
    start = job.spec.model.adapter
    if start is None or folder is None:
        return {}
    described = {"uri": start.uri, "use": str(start.use), "sha256": weights_digest(folder), **made_by(folder)}
    return {"adapter": described}


def made_by(folder: Path) -> dict[str, Any]:
    """The run and the step that a folder was exported from, as its manifest has it; nothing for one of another make."""
    try:
        export = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["export"]
        return {"madeBy": {"run": export["runId"], "step": export["step"], "identity": export["identity"]}}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _without_secrets(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {name: _without_secrets(member) for name, member in part.items() if name != "secretRef"}


def public_manifest(job: FineTuneJob) -> dict[str, Any]:
    """JSON: the manifest without what it says of credentials, and without what the API server adds."""
    manifest = to_manifest(job)
    spec = {name: _without_secrets(part) for name, part in manifest["spec"].items() if name not in SECRET}
    metadata = {"name": job.metadata.name, "namespace": job.metadata.namespace}
    return {**manifest, "metadata": metadata, "spec": spec}
