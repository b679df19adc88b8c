"""The committed renders are those of the examples as they are, and of no example that is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from finetune_operator.render import objects
from generate import GENERATED, GOLDEN, ROOT
from render_example import OPERATOR, job_of, runtime_of

RENDERS = {path: command[-2:] for path, command in GENERATED.items() if path.startswith(GOLDEN)}


@pytest.mark.parametrize("path", RENDERS, ids=lambda path: Path(path).stem)
def test_a_render_is_what_the_operator_makes_of_the_example_today(path: str) -> None:
    manifest, runtime = (ROOT / name for name in RENDERS[path])
    with (ROOT / path).open(encoding="utf-8") as committed:
        assert list(yaml.safe_load_all(committed)) == objects(job_of(manifest), runtime_of(runtime).spec, 1, OPERATOR)


def test_each_example_has_a_render_and_each_render_an_example() -> None:
    assert {str(path.relative_to(ROOT)) for path in (ROOT / GOLDEN).iterdir()} == set(RENDERS)
    rendered = {Path(manifest).stem for manifest, _ in RENDERS.values()}
    assert rendered == {path.stem for path in (ROOT / "examples").glob("*.yaml")}
