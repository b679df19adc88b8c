"""Checks that need the stores but no workers: made before any starts, so that a mistake costs seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from finetune_trainer.data import list_sources
from finetune_trainer.errors import FinetuneError, Problem, SpecError, StorageError
from finetune_trainer.model.adapter_folder import look
from finetune_trainer.model.folder import check_folder, check_names, check_vocabulary
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.starting_point import check_start
from finetune_trainer.store import StoreUnreachable, open_store, probe

TRACKER_PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}
"""The package that each tracker imports, and the extra that brings it; both have its name."""

QLORA = "needs bitsandbytes, which is not installed here: write LoRA, or install finetune-operator[qlora]"


def preflight(job: FineTuneJob) -> None:
    """Read and write where the job will: stores that can commit, data that exists, a model with all its parts, and the
    checkpoint of another run, where the manifest names one to start from.

    Every check is made before anything is raised: the first error found, its message followed by those of the others.
    Only a store that does not answer ends the checks: each further one would wait as long for it.
    """
    require_packages(job)
    errors: list[FinetuneError] = []
    for check in _checks(job):
        if (error := _failure(check)) is not None:
            errors.append(error)
        if isinstance(error, StoreUnreachable):
            break
    if errors:
        raise type(errors[0])("\n".join(str(error) for error in errors))


def _checks(job: FineTuneJob) -> list[Callable[[], object]]:
    data = job.spec.data
    return [
        partial(_require_commits, "spec.checkpoint.uri", job.spec.checkpoint.uri),
        partial(_require_commits, "spec.output.uri", job.spec.output.uri),
        partial(list_sources, data.train, "spec.data.train"),
        partial(list_sources, data.eval, "spec.data.eval"),
        partial(_require_model, job.spec.model.uri),
        partial(check_start, job),
        partial(look, job),
    ]


def require_packages(job: FineTuneJob) -> None:
    """SpecError unless the optional packages that a job needs are installed; none is imported."""
    if job.spec.method.qlora is not None and find_spec("bitsandbytes") is None:
        raise SpecError([Problem("spec.method.type", "QLoRA", QLORA)])
    chosen = job.spec.trackers.model_dump(exclude_none=True) if job.spec.trackers is not None else {}
    for name, package in TRACKER_PACKAGES.items():
        if name in chosen and find_spec(package) is None:
            advice = f"needs the package {package}: run pip install 'finetune-operator[{package}]', or remove it"
            raise SpecError([Problem(f"spec.trackers.{name}", "a mapping", advice)])


def _failure(check: Callable[[], object]) -> FinetuneError | None:
    try:
        check()
    except FinetuneError as error:
        return error
    return None


def _require_commits(field: str, uri: str) -> None:
    with _naming(field):
        probe(open_store(uri))


def _require_model(uri: str) -> None:
    """A local folder is looked at as a rank will, one in S3 by the names of its files, and the hub is left to ranks."""
    if uri.startswith("hf://"):
        return
    if uri.startswith("file://"):
        check_folder(Path(uri.removeprefix("file://")), uri)
    with _naming("spec.model.uri"):
        names = [info.key for info in open_store(uri).list(recursive=False)]
    check_names(uri, names)
    check_vocabulary(uri, names)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Put the manifest's field in front of what a store says."""
    try:
        yield
    except StorageError as error:
        raise type(error)(f"{field}: {error}") from error
