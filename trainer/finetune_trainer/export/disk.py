"""Local files of an export: made in a folder of the node before they are published."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from finetune_trainer.errors import StorageError


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the operating system says about files below `place` into a StorageError with what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        folder = next(parent for parent in (place, *place.parents) if parent.exists())
        free = shutil.disk_usage(folder).free
        raise StorageError(
            f"cannot write the export to {place} ({error}; {free} bytes free): make room, or set FINETUNE_WORKDIR to "
            "a folder with room for the weights, and run the job again: it exports without training again"
        ) from error


def fresh(folder: Path) -> Path:
    """The folder, empty, and alone in its parent: whatever earlier starts left there is deleted."""
    with writing(folder):
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
    return folder


def files_below(folder: Path) -> list[str]:
    """Names of all files below `folder`, relative to it, '/'-separated and sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
