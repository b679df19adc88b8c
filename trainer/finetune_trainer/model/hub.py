"""Models from a Hugging Face hub, through huggingface_hub itself: its cache, its resume, its checks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.model.folder import SMALL_FILES, check_config, indexed_weights, weight_files
from finetune_trainer.model.mirror import Progress

BYTES_BAR = "huggingface_hub.snapshot_download"  # the one of its bars that counts what has been written
SUBFOLDERS = "*/*"  # where repositories keep other formats of the same weights


def download(uri: str, cache_dir: Path, token: str | None, progress: Progress | None = None) -> Path:
    """Folder of `hf://org/name@revision` (without a revision: `main`), with the files of the model and no others.

    The hub is `HF_ENDPOINT` or huggingface.co; with `HF_HUB_OFFLINE=1` only the cache is used, which is `HF_HUB_CACHE`
    or `HF_HOME` where set and lies in `cache_dir` else. `progress` hears of the weights' bytes; a file's size
    is known when its reading begins, so the total grows. DataError says what to write when the repository, the revision
    or safetensors weights do not exist; StorageError when the hub fails.
    """
    repository, _, revision = uri.removeprefix("hf://").partition("@")
    with _explained(uri, revision):
        return _Snapshot(repository, cache_dir, token, progress).model(uri, revision or None)


def download_small(uri: str, cache_dir: Path, token: str | None) -> Path:
    """The folder that `download` returns, with everything but weights; raises as it does."""
    repository, _, revision = uri.removeprefix("hf://").partition("@")
    with _explained(uri, revision):
        return _Snapshot(repository, cache_dir, token, None).small(uri, revision or None)


def download_named(uri: str, cache_dir: Path, token: str | None, names: Sequence[str]) -> Path:
    """A folder with those files of a repository that there are; raises as `download` does."""
    repository, _, revision = uri.removeprefix("hf://").partition("@")
    with _explained(uri, revision):
        return _Snapshot(repository, cache_dir, token, None).named(revision or None, names)


@contextmanager
def _explained(uri: str, revision: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into what to do about it."""
    try:
        yield
    except GatedRepoError as error:
        raise DataError(f"spec.model.uri: {uri} is gated: accept its terms on the hub, then set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise DataError(f"spec.model.uri: {uri} has no revision {revision!r}: write a branch, tag or commit") from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"spec.model.uri: {uri} does not exist or is private: check the name, and set HF_TOKEN if it is private"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError) as error:
        raise StorageError(f"spec.model.uri: {uri} could not be read from {_endpoint()}: {error}") from error


class _Snapshot:
    """One repository; each call reads what is missing of one commit."""

    def __init__(self, repository: str, cache_dir: Path, token: str | None, progress: Progress | None) -> None:
        self._repository = repository
        self._cache = _cache_folder(cache_dir)
        self._token = token
        self._bar = _bar(progress) if progress is not None else None

    def named(self, revision: str | None, names: Sequence[str]) -> Path:
        return self._files(revision, list(names), SUBFOLDERS, None)

    def small(self, uri: str, revision: str | None) -> Path:
        folder = self._files(revision, list(SMALL_FILES), SUBFOLDERS, None)
        check_config(folder, uri)
        return folder

    def model(self, uri: str, revision: str | None) -> Path:
        folder = self.small(uri, revision)
        commit = folder.name  # the snapshot's folder is named by the commit, so that both reads see the same one
        wanted = indexed_weights(folder, uri)
        self._files(commit, wanted, None, self._bar)
        present = {entry.name for entry in folder.iterdir()}
        if not present.issuperset(wanted):
            present |= set(HfApi(_endpoint(), self._token).list_repo_files(self._repository, revision=commit))
        weight_files(folder, uri, present)
        return folder

    def _files(self, revision: str | None, allowed: list[str], ignored: str | None, bar: type[tqdm] | None) -> Path:
        return Path(
            snapshot_download(
                self._repository,
                revision=revision,
                cache_dir=self._cache,
                token=self._token,
                allow_patterns=allowed,
                ignore_patterns=ignored,
                endpoint=_endpoint(),
                tqdm_class=bar,
            )
        )


def _bar(progress: Progress) -> type[tqdm]:
    """A progress bar as huggingface_hub makes them, which shows nothing and hands on the bytes that are here."""
    lock = threading.Lock()

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts = options.get("name") == BYTES_BAR
            self._here = 0
            super().__init__(*args, **options | {"disable": True})  # type: ignore[no-untyped-call]  # as tqdm is

        def update(self, n: float | None = 1) -> None:
            with lock:
                self._here += int(n or 0)
                if self._counts:
                    progress(self._here, max(self._here, int(self.total or 0)))

    return Bar


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


def _cache_folder(cache_dir: Path) -> Path:
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME")
    return Path(constants.HF_HUB_CACHE) if chosen else cache_dir / "hub"
