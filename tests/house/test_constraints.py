"""constraints.txt belongs to pyproject.toml: every requirement is pinned, inside its range, and no index is named."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [
    Requirement(text)
    for group in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for text in group
]


def pins() -> dict[str, list[str]]:
    """Versions by canonical name; a package has several where they differ by Python version."""
    found: dict[str, list[str]] = {}
    for line in LINES:
        requirement = Requirement(line)
        versions = [specifier.version for specifier in requirement.specifier]
        found.setdefault(canonicalize_name(requirement.name), []).extend(versions)
    return found


def test_every_requirement_is_pinned_inside_its_range() -> None:
    versions = pins()
    outside = [
        f"{requirement} but {versions.get(canonicalize_name(requirement.name))}"
        for requirement in REQUIRED
        if not (found := versions.get(canonicalize_name(requirement.name)))
        or not all(requirement.specifier.contains(version, prereleases=True) for version in found)
    ]
    assert outside == []


def test_every_requirement_has_a_lower_and_an_upper_bound() -> None:
    kinds = {str(requirement): {s.operator for s in requirement.specifier} for requirement in REQUIRED}
    assert [text for text, operators in kinds.items() if operators != {">=", "<"}] == []


def test_constraints_are_pins_and_name_no_index() -> None:
    assert [line for line in LINES if "==" not in line or "://" in line or line.startswith("-")] == []
