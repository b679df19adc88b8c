"""Whatever is in a file: a job comes out, or a list of problems; never a traceback."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import SpecError
from finetune_trainer.spec import FineTuneJob, parse_job, to_manifest
from finetune_trainer.spec.example import EXAMPLE
from finetune_trainer.spec.fields import entries

VALID = copy.deepcopy(EXAMPLE)
for _part, _field in (
    ("model", "adapter"),
    ("method", "qlora"),
    ("method", "full"),
    *(("objective", name) for name in ("dpo", "orpo", "kto", "reward", "classification")),
    ("training", "maxSteps"),
    ("workers", "minReplicas"),
):
    del VALID["spec"][_part][_field]
VALID["spec"]["data"]["eval"][0]["metrics"] = [{"type": "ExactMatch"}]
VALID["spec"]["evaluation"]["forgetting"]["sets"] = []

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["LoRA", "s3://b/k"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def test_the_example_without_its_contradictions_is_valid() -> None:
    assert parse_job(json.dumps(VALID)).spec.training.epochs == 2


def outcome(text: str) -> FineTuneJob | SpecError:
    try:
        return parse_job(text)
    except SpecError as error:
        return error


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a document, the deepest last."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(st.sampled_from("abc:-[]{}#&*!|>'\"%@`?, \n\t0123.~<"), max_size=60))
def test_any_text_gives_a_job_or_problems(text: str) -> None:
    result = outcome(text)
    assert isinstance(result, SpecError)
    assert all(problem.path and problem.message for problem in result.problems)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_change_of_a_manifest_gives_a_job_or_problems_that_name_existing_places(data: st.DataObject) -> None:
    document = copy.deepcopy(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        *above, last = data.draw(st.sampled_from(places(document)[1:]))
        parent: Any = document
        for part in above:
            parent = parent[part]
        if data.draw(st.booleans()):
            parent[last] = data.draw(VALUES)
        elif isinstance(parent, dict):
            parent[data.draw(st.text("abcXYZ_.-", min_size=1, max_size=6))] = data.draw(VALUES)
    result = outcome(json.dumps(document))
    if isinstance(result, SpecError):
        assert result.problems
        assert all(re.search("write|remove|leave|keep|add ", problem.message) for problem in result.problems), result
    else:
        assert parse_job(json.dumps(to_manifest(result))) == result


def test_every_field_refuses_a_value_of_an_impossible_type() -> None:
    for path, entry in entries().items():
        if path.startswith("spec.objective.") and entry.is_map:
            continue  # not yet: any options are known
        document = copy.deepcopy(EXAMPLE)
        *above, last = path.replace("[]", ".0").split(".")
        parent: Any = document
        for part in above:
            parent = parent[int(part) if isinstance(parent, list) else part]
        parent[int(last) if isinstance(parent, list) else last] = [[{"": []}]] if not entry.is_list else {"": 1}
        result = outcome(json.dumps(document))
        assert isinstance(result, SpecError)
        assert path.replace("[]", "[0]") in [problem.path for problem in result.problems]
