"""From text to a checked job, or to every mistake at once."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.spec.defaults import prepare
from finetune_trainer.spec.job import FineTuneJob
from finetune_trainer.spec.yaml_reader import YamlProblem, read_yaml


def load_job(path: str | Path) -> FineTuneJob:
    """Reads and checks the manifest at `path`; raises `SpecError` with every problem found."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = Problem(str(path), f"byte {error.start}", "is no UTF-8: save the manifest as UTF-8")
        raise SpecError([problem]) from error
    except OSError as error:
        raise SpecError([Problem(str(path), error.strerror, "cannot be read: name a readable manifest")]) from error
    return parse_job(text)


def parse_job(text: str) -> FineTuneJob:
    """Checks a manifest; raises `SpecError` with every problem found."""
    try:
        document = read_yaml(text)
    except YamlProblem as error:
        raise SpecError([error.problem]) from error
    try:
        return FineTuneJob.model_validate_json(json.dumps(prepare(document)), by_alias=True, by_name=False)
    except ValidationError as error:
        problems = [Problem(".".join(map(str, e["loc"])), e["input"], e["msg"]) for e in error.errors()]
        raise SpecError(problems) from error
