"""The CRDs as documents: what a structural schema needs, what a reader needs, and that nothing of the types is lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.api.status import JobStatus
from finetune_operator.crd.columns import JOB_COLUMNS
from finetune_operator.crd.documents import crds
from finetune_operator.crd.overrides import WHOLE_NUMBER
from finetune_operator.crd.reference import reference
from finetune_operator.crd.structural import structural
from finetune_trainer.spec import JobSpec
from finetune_trainer.spec.fields import walk
from finetune_trainer.spec.overrides import ALLOWED
from finetune_trainer.spec.reference import COMPUTED_DEFAULTS
from finetune_trainer.spec.yaml_reader import core_scalar

ROOT = Path(__file__).parents[3]
DOCUMENTS = crds()
FORBIDDEN = {
    "$ref",
    "$defs",
    "title",
    "anyOf",
    "oneOf",
    "allOf",
    "const",
    "propertyNames",
    "prefixItems",
    "uniqueItems",
}
# The annotation in which `kubectl apply` keeps what was applied may have 262144 bytes.
MOST_BYTES = 200_000

Schema = dict[str, Any]


def schema_of(plural: str) -> Schema:
    schema: Schema = DOCUMENTS[plural]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema by the path of its values; `[]` is an element, `{}` a value under a free name."""
    yield path, schema
    for name, member in schema.get("properties", {}).items():
        yield from nodes(member, f"{path}.{name}".strip("."))
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


ALL = {plural: dict(nodes(schema_of(plural))) for plural in DOCUMENTS}
EVERY = [(plural, path, node) for plural, found in ALL.items() for path, node in found.items()]


def test_only_keywords_of_a_structural_schema_are_used() -> None:
    assert [(plural, path) for plural, path, node in EVERY if FORBIDDEN & node.keys()] == []
    assert [path for _, path, node in EVERY if not {"type", "x-kubernetes-int-or-string"} & node.keys()] == []


def test_every_text_list_and_map_of_a_spec_or_status_is_bounded() -> None:
    """CEL's costs are counted for the largest value that the schema allows."""
    unbounded = [
        (plural, path)
        for plural, path, node in EVERY
        if path.startswith(("spec", "status"))
        if (node.get("type") == "string" and not {"maxLength", "enum", "format"} & node.keys())
        or (node.get("type") == "array" and "maxItems" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
    ]
    assert unbounded == []


def test_every_field_of_the_types_is_in_the_schema_and_says_what_it_does() -> None:
    for plural, model, prefix in (
        ("finetunejobs", JobSpec, "spec."),
        ("finetunejobs", JobStatus, "status."),
        ("finetuneruntimes", RuntimeSpec, "spec."),
    ):
        for entry in walk(model, prefix):
            node = ALL[plural].get(entry.path)
            if node is not None:
                assert node["description"].startswith(entry.description[:900])
        missing = [entry.path for entry in walk(model, prefix) if entry.path not in ALL[plural]]
        assert missing == []


def test_no_field_is_without_a_description() -> None:
    """kubectl explain would show `<no description>`; the API server itself documents the metadata."""
    members = [(path, node) for _, path, node in EVERY if not path.endswith(("[]", "{}")) and "metadata" not in path]
    assert [path for path, node in members if not node.get("description")] == []
    assert max(len(node["description"]) for _, node in members) <= 1024


def test_lists_that_several_may_write_to_have_a_key() -> None:
    keys = {path: node["x-kubernetes-list-map-keys"] for _, path, node in EVERY if "x-kubernetes-list-map-keys" in node}
    assert keys == {
        "spec.data.eval": ["name"],
        "status.conditions": ["type"],
        "status.attempts": ["number"],
        "status.failures": ["reason"],
    }
    lists = [node["x-kubernetes-list-type"] for _, _, node in EVERY if node.get("type") == "array"]
    assert set(lists) == {"atomic", "map"}


def test_defaults_that_depend_on_other_fields_are_left_to_who_reads_the_job() -> None:
    jobs = ALL["finetunejobs"]
    assert [path for path in COMPUTED_DEFAULTS if "default" in jobs[path]] == []
    assert jobs["spec.deepspeed"]["default"] == {
        "zeroStage": 2,
        "offloadOptimizer": "None",
        "offloadParameters": "None",
    }
    assert jobs["spec.suspend"]["default"] is False
    assert [path for path, node in jobs.items() if path.startswith("status") and "default" in node] == []


def test_a_later_word_of_the_status_is_not_refused() -> None:
    for path in ("status.phase", "status.conditions[].type", "status.conditions[].reason", "status.attempts[].reason"):
        assert "enum" not in ALL["finetunejobs"][path]
    assert ALL["finetunejobs"]["status.conditions[].status"]["enum"] == ["True", "False", "Unknown"]


def test_a_keyword_that_nobody_has_translated_is_an_error() -> None:
    from pydantic import Field

    from finetune_trainer.spec.base import Part

    class Odd(Part):
        even: int = Field(multiple_of=2)

    with pytest.raises(ValueError, match="multipleOf"):
        structural(Odd)


def test_the_columns_are_those_that_were_promised() -> None:
    names = [column["name"] for column in JOB_COLUMNS]
    assert names == ["Phase", "Method", "Workers", "Step", "%", "Loss", "ETA", "Checkpoint", "Queue", "Restarts", "Age"]
    for column in JOB_COLUMNS:
        path = column["jsonPath"].removeprefix(".")
        assert path in ALL["finetunejobs"] or path == "metadata.creationTimestamp"


@pytest.mark.parametrize("plural", DOCUMENTS)
def test_the_committed_file_says_the_same_to_a_reader_of_yaml_1_1(plural: str) -> None:
    """kubectl and Helm are such readers, and take a bare On for true."""
    text = (ROOT / "charts" / "finetune-operator" / "crds" / f"{plural}.yaml").read_text()
    assert yaml.safe_load(text) == DOCUMENTS[plural]
    assert len(json.dumps(DOCUMENTS[plural])) < MOST_BYTES


def test_the_module_prints_both() -> None:
    done = subprocess.run([sys.executable, "-m", "finetune_operator.crd"], capture_output=True, text=True, check=True)
    assert list(yaml.safe_load_all(done.stdout)) == list(DOCUMENTS.values())


def test_the_page_of_the_api_is_current_and_names_every_field() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert page == reference()
    fields = [*walk(JobStatus, "status."), *walk(RuntimeSpec, "spec.")]
    assert [entry.path for entry in fields if f"| `{entry.path}` |" not in page] == []


@pytest.mark.parametrize("text", ["500000000", "5e8", "5E+8", "1.5e1", "0x1f", "0o17", "-1", "+3", "7."])
def test_a_whole_number_as_the_trainer_reads_it_is_one_for_the_api_server(text: str) -> None:
    assert float(core_scalar(text)).is_integer()
    assert re.fullmatch(WHOLE_NUMBER, text)


def test_every_option_that_may_be_set_is_a_member_of_the_overrides() -> None:
    assert set(ALL["finetunejobs"]["spec.deepspeed.overrides"]["properties"]) == set(ALLOWED)
