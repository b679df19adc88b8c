"""Wrong manifests, with what kubectl says about each: the tables in crd/mistakes, as edits of crd/job.yaml."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from control_plane import ControlPlane, KubectlFailed

Object = dict[str, Any]

FOLDER = Path(__file__).parent / "crd"
JOB_TABLES = ("fields", "unknown", "rules", "not_yet", "addresses", "amounts", "names")
NO_FURTHER = (
    "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


@dataclass(frozen=True)
class Mistake:
    """One row of a table: `manifest` is wrong (or changes `before` in a wrong way), `lines` are kubectl's."""

    table: str
    case: str
    before: Object
    manifest: Object
    lines: tuple[str, ...]


def read(name: str) -> Any:
    """A YAML file of FOLDER."""
    return YAML(typ="safe").load((FOLDER / name).read_text())


def mistakes(*tables: str) -> list[Mistake]:
    """The rows of these tables."""
    return [_mistake(table, row) for table in tables for row in read(f"mistakes/{table}.yaml")]


def _mistake(table: str, row: Object) -> Mistake:
    before = edited(read("runtime.yaml" if table == "runtimes" else "job.yaml"), row.get("before", {}))
    lines = tuple(NO_FURTHER if line == "..." else line for line in row["refused"])
    return Mistake(table, row["case"], before, edited(before, row["edits"]), lines)


def edited(document: Object, edits: Mapping[str, Any]) -> Object:
    """`document` with the value at each dotted path replaced (below `spec` unless it begins with `/`); None removes."""
    document = copy.deepcopy(document)
    for path, value in edits.items():
        names = path[1:].split("/") if path.startswith("/") else ["spec", *path.split(".")]
        place: Any = document
        for name in names[:-1]:
            place = place[int(name) if isinstance(place, list) else name]
        key: Any = int(names[-1]) if isinstance(place, list) else names[-1]
        if value is None:
            place.pop(key, None)
        else:
            place[key] = value
    return document


def apply_all(plane: ControlPlane, namespace: str, folder: Path, manifests: Mapping[str, Object]) -> dict[str, str]:
    """One `kubectl apply` of all these; what it says about each that is refused, without what it says of the file."""
    folder.mkdir()
    names = {f"{index:04}.json": name for index, name in enumerate(manifests)}
    for file, name in names.items():
        (folder / file).write_text(json.dumps(manifests[name]))
    try:
        plane.kubectl("apply", "-f", str(folder), namespace=namespace)
    except KubectlFailed as failure:
        found = re.findall(r'error when (?:creating|patching) "[^"]*/(\d+\.json)": (.*)', failure.stderr)
        return {names[file]: _said(text) for file, text in found}
    return {}


def _said(text: str) -> str:
    for beginning in (" is invalid: ", "strict decoding error: "):
        text = text.partition(beginning)[2] or text
    return text


def in_any_order(lines: tuple[str, ...]) -> list[str]:
    """How kubectl may put the API server's lines into one; the API server has no order of its own."""
    if len(lines) == 1:
        return [lines[0]]
    return [f"[{', '.join(order)}]" for order in itertools.permutations(lines)]
