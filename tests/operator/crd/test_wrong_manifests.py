"""Every wrong manifest of the tables, applied with kubectl to a real API server: refused, in exactly these words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from control_plane import ControlPlane, KubectlFailed
from mistakes import JOB_TABLES, Mistake, Object, apply_all, edited, in_any_order, mistakes, read

WRONG = mistakes(*JOB_TABLES, "runtimes")
CHANGES = mistakes("changes")
NAMESPACE = "mistakes"


def named(mistake: Mistake) -> str:
    return f"{mistake.table}: {mistake.case}"


@pytest.fixture(scope="module")
def home(control_plane: ControlPlane) -> str:
    """A namespace for this file."""
    control_plane.kubectl("create", "namespace", NAMESPACE)
    return NAMESPACE


@pytest.fixture(scope="module")
def answers(control_plane: ControlPlane, home: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What kubectl says about each wrong manifest, from one call."""
    folder = tmp_path_factory.mktemp("mistakes") / "all"
    return apply_all(control_plane, home, folder, {named(mistake): mistake.manifest for mistake in WRONG})


@pytest.fixture(scope="module")
def changes(control_plane: ControlPlane, home: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What kubectl says about each change of a job that exists, from one call; nothing about accepted ones."""
    folder = tmp_path_factory.mktemp("changes")
    before, after = {}, {}
    for index, mistake in enumerate(CHANGES):
        name = {"name": f"changed-{index}"}
        before[named(mistake)] = {**mistake.before, "metadata": name}
        after[named(mistake)] = {**mistake.manifest, "metadata": name}
    assert apply_all(control_plane, home, folder / "before", before) == {}
    return apply_all(control_plane, home, folder / "after", after)


def test_the_tables_have_enough_mistakes() -> None:
    assert len(WRONG) >= 60
    assert len({named(mistake) for mistake in WRONG}) == len(WRONG)


@pytest.mark.parametrize("mistake", WRONG, ids=named)
def test_a_wrong_manifest_is_refused_in_these_words(mistake: Mistake, answers: dict[str, str]) -> None:
    assert answers.get(named(mistake), "accepted") in in_any_order(mistake.lines)


@pytest.mark.parametrize("mistake", CHANGES, ids=named)
def test_a_job_changes_only_where_it_may(mistake: Mistake, changes: dict[str, str]) -> None:
    expected = in_any_order(mistake.lines) if mistake.lines else ["accepted"]
    assert changes.get(named(mistake), "accepted") in expected


FULL_OUTPUT: dict[str, tuple[Object, str]] = {
    "a rule": (
        {"output.format": "Full"},
        'The FineTuneJob "support-bot" is invalid: spec.output.format: Invalid value: does not come out of method '
        "LoRA: write Adapter or Merged, or leave it out (got 'Full')\n",
    ),
    "an unknown field": (
        {"gpus": 8},
        'Error from server (BadRequest): error when creating "{file}": FineTuneJob in version "v1alpha1" cannot be '
        'handled as a FineTuneJob: strict decoding error: unknown field "spec.gpus"\n',
    ),
    "another version": (
        {"/apiVersion": "finetune.dev/v1"},
        'error: resource mapping not found for name: "support-bot" namespace: "" from "{file}": no matches for kind '
        '"FineTuneJob" in version "finetune.dev/v1"\nensure CRDs are installed first\n',
    ),
}


@pytest.mark.parametrize("case", FULL_OUTPUT)
def test_kubectl_shows_one_mistake_like_this(case: str, control_plane: ControlPlane, home: str, tmp_path: Path) -> None:
    edits, expected = FULL_OUTPUT[case]
    file = tmp_path / "job.json"
    file.write_text(json.dumps(edited(read("job.yaml"), edits)))
    with pytest.raises(KubectlFailed) as refusal:
        control_plane.kubectl("apply", "-f", str(file), namespace=home)
    assert refusal.value.stderr == expected.format(file=file)
