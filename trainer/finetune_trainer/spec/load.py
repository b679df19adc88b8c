"""From a file or text to a checked job, or to every mistake at once."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.spec.check import check_document
from finetune_trainer.spec.derived import with_absolute_paths
from finetune_trainer.spec.job import FineTuneJob
from finetune_trainer.spec.yaml_reader import YamlProblem, read_yaml


def load_job(path: str | Path) -> FineTuneJob:
    """Reads and checks the manifest at `path`; raises `SpecError` with every problem found."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = Problem(str(path), f"byte {error.start}", "is no UTF-8 text: save the manifest as UTF-8")
        raise SpecError([problem]) from error
    except OSError as error:
        raise SpecError([Problem(str(path), error.strerror, "cannot be read: name a readable manifest")]) from error
    return parse_job(text)


def load_local_job(path: Path) -> FineTuneJob:
    """`load_job`, with each `file://./x` made absolute: such paths are relative to the manifest's folder."""
    return with_absolute_paths(load_job(path), path.resolve().parent)


def parse_job(text: str) -> FineTuneJob:
    """Checks the manifest in `text`, YAML 1.2 or JSON; raises `SpecError` with every problem found."""
    try:
        document = read_yaml(text)
    except YamlProblem as error:
        raise SpecError([error.problem]) from error
    return check_document(document)
