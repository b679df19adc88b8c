"""Every manifest in examples/ is one that `finetune validate` accepts, in the demo's S3 form as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo import Place
from finetune_trainer.spec import load_job, ranks, to_manifest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MANIFESTS = sorted(path for path in EXAMPLES.rglob("*.yaml") if path.parent.name != "runtimes")


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
        ("LoRA", "DPO"),
    }
    assert {job.model.uri.partition("://")[0] for job in jobs} == {"file", "hf", "s3"}
    assert max(ranks(load_job(path)) for path in MANIFESTS) > 8


def test_each_stage_starts_from_what_the_one_before_has_written() -> None:
    first, second, third = (to_manifest(load_job(path))["spec"] for path in sorted(EXAMPLES.glob("stages/*.yaml")))
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
