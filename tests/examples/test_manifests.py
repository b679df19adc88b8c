"""Every manifest in examples/ is one that `finetune validate` accepts, in the demo's S3 form as well."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from demo import Place
from finetune_trainer.errors import SpecError
from finetune_trainer.spec import load_job, ranks, to_manifest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LATER = ("3-preferences.yaml",)
MANIFESTS = sorted(
    path for path in EXAMPLES.rglob("*.yaml") if path.parent.name != "runtimes" and path.name not in LATER
)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_every_example_is_valid(path: Path) -> None:
    assert load_job(path).metadata.name


def test_examples_cover_what_a_reader_looks_for() -> None:
    jobs = [load_job(path).spec for path in MANIFESTS]
    assert {(str(job.method.type), str(job.objective.type)) for job in jobs} >= {
        ("Full", "CPT"),
        ("Full", "SFT"),
        ("LoRA", "SFT"),
        ("QLoRA", "SFT"),
    }
    assert {job.model.uri.partition("://")[0] for job in jobs} == {"file", "hf", "s3"}
    assert max(ranks(load_job(path)) for path in MANIFESTS) > 8


@pytest.mark.parametrize("name", LATER)
def test_what_waits_for_an_objective_waits_for_nothing_else(name: str) -> None:
    (path,) = EXAMPLES.rglob(name)
    with pytest.raises(SpecError) as refusal:
        load_job(path)
    late = ("spec.objective", "spec.data.")
    assert all(one.path.startswith(late) and "not available yet" in one.message for one in refusal.value.problems)


def test_each_stage_starts_from_what_the_one_before_has_written() -> None:
    first, second, third = (YAML(typ="safe").load(path)["spec"] for path in sorted(EXAMPLES.glob("stages/*.yaml")))
    assert [one["objective"]["type"] for one in (first, second, third)] == ["CPT", "SFT", "DPO"]
    assert second["model"]["uri"] == first["output"]["uri"]
    assert third["model"]["uri"] == second["model"]["uri"]
    assert third["model"]["adapter"] == {"uri": second["output"]["uri"], "use": "Merge"}


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_the_demo_runs_its_manifests_unchanged(tmp_path: Path, name: str) -> None:
    copied = Place(tmp_path, None).manifest(name)
    assert copied.read_bytes() == (EXAMPLES / "demo" / f"{name}.yaml").read_bytes()


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_over_s3_only_the_places_differ(tmp_path: Path, name: str) -> None:
    local = to_manifest(load_job(EXAMPLES / "demo" / f"{name}.yaml"))
    remote = to_manifest(load_job(Place(tmp_path, "some-bucket").manifest(name)))
    assert "file://" not in str(remote)
    assert str(remote).replace("s3://some-bucket/", "file://./") == str(local)
