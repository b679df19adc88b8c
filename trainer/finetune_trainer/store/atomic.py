"""Files that appear whole and durable, or not at all, whatever kills the writer."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune_trainer.store.objects import TEMPORARY_PREFIX

# A folder made for a file may be pruned by a concurrent delete before the file is in it; each retry makes it again.
FOLDER_RACES = 16
PRUNED = "its folder is removed again and again by another process"
# Linux's unnamed files vanish with their writer, so that a killed one leaves nothing behind; absent elsewhere.
UNNAMED = getattr(os, "O_TMPFILE", 0)
NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)  # what open(2) says where there are none


def create_file(path: Path, data: memoryview, *, unnamed: bool = bool(UNNAMED)) -> os.stat_result:
    """Publish `data` (bytes) at `path` with one link(2), which fails if the name is taken; returns the file's stat.

    The data and the new name are on disk (fsync) on return. Raises FileExistsError, and OSError otherwise; then `path`
    does not exist, unless only the folder's fsync failed. Where the file system has no unnamed files (NFS, macOS),
    a killed writer can leave a hidden temporary file; one that loses its own to whoever clears up makes another.
    """
    for _ in range(FOLDER_RACES):
        make_folder(path.parent)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        with suppress(FileNotFoundError):
            return _publish_new(path, data, unnamed=unnamed)
    raise FileNotFoundError(errno.ENOENT, PRUNED, str(path))


def replace_file(path: Path, data: memoryview) -> os.stat_result:
    """Publish `data` (bytes) at `path` with one rename(2), in place of any older file; durable on return."""
    for _ in range(FOLDER_RACES):
        make_folder(path.parent)
        with suppress(FileNotFoundError), _named(path.parent, data) as (temporary, status):
            os.replace(temporary, path)
            sync_folder(path.parent)
            return status
    raise FileNotFoundError(errno.ENOENT, PRUNED, str(path))


def _publish_new(path: Path, data: memoryview, *, unnamed: bool) -> os.stat_result:
    if unnamed:
        try:
            handle = os.open(path.parent, UNNAMED | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in NO_UNNAMED:
                raise
            return _publish_new(path, data, unnamed=False)
        try:
            status = _fill(handle, data)
            # Naming src_dir_fd makes Python call linkat with AT_SYMLINK_FOLLOW, as open(2) documents for O_TMPFILE.
            os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=handle, follow_symlinks=True)
        finally:
            os.close(handle)
    else:
        with _named(path.parent, data) as (temporary, status):
            _link_named(temporary, path)
    sync_folder(path.parent)
    return status


def _link_named(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS may lose the answer to a link that was made; the link count tells (open(2), O_EXCL on NFS).
        if temporary.stat().st_nlink == 1:
            raise


@contextmanager
def _named(folder: Path, data: memoryview) -> Iterator[tuple[Path, os.stat_result]]:
    """A hidden file in `folder` with `data`, on disk; removed at the end, whatever happens, unless it was renamed."""
    temporary = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        try:
            status = _fill(handle, data)
        finally:
            os.close(handle)
        yield temporary, status
    finally:
        temporary.unlink(missing_ok=True)


def _fill(handle: int, data: memoryview) -> os.stat_result:
    written = 0
    while written < data.nbytes:
        written += os.write(handle, data[written:])
    os.fsync(handle)
    return os.fstat(handle)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; each new name is on disk on return."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        sync_folder(folder.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
