"""Objects as files under one folder, with the guarantees of an S3 store: created once, whole, durable, in order."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.errors import StorageError
from finetune_trainer.store.atomic import create_file, replace_file
from finetune_trainer.store.checksums import read_fully
from finetune_trainer.store.objects import (
    TEMPORARY_PREFIX,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    StorageRefused,
    byte_view,
    check_key,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer


class FileStore:
    """An ObjectStore over the folder `root`, made by the first write. Symbolic links below it are followed."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.normpath(root))

    @property
    def uri(self) -> str:
        """The root's address, without a slash at its end."""
        return f"file://{self.root}"

    def __repr__(self) -> str:
        return f"FileStore({self.uri!r})"

    def list(self, prefix: str = "", *, after: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        """See ObjectStore. Files of writers that are not done are not there yet."""
        folder, _, start = prefix.rpartition("/")
        base = f"{folder}/" if folder else ""
        top = self.root / folder
        with _explained("list", top):
            for info in self._walk(top, base, start, recursive, ()):
                if not after or os.fsencode(info.key) > os.fsencode(after):
                    yield info

    def head(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        path = self._path(key)
        with _explained("look up", path):
            return _info(key, _regular(path, path.stat()))

    def checksum(self, key: str) -> int | None:
        """See ObjectStore."""
        self.head(key)
        return None

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """See ObjectStore."""
        path = self._path(key)
        with _explained("read", path), path.open("rb", buffering=0) as file:
            size = _regular(path, os.fstat(file.fileno())).st_size
            wanted = max(0, size - start) if length is None else max(0, min(length, size - start))
            file.seek(start)
            data = file.read(wanted)
        if len(data) != wanted:
            raise StorageError(f"{path} gave {len(data)} bytes of {wanted}: it changed while it was read")
        return data

    def read_into(self, key: str, buffer: Buffer, start: int = 0) -> tuple[int, int]:
        """See ObjectStore."""
        path = self._path(key)
        with _explained("read", path), path.open("rb", buffering=0) as file:
            _regular(path, os.fstat(file.fileno()))
            file.seek(start)
            return read_fully(file, byte_view(buffer))

    def open(self, key: str) -> io.BufferedReader:
        """See ObjectStore."""
        path = self._path(key)
        with _explained("read", path):
            _regular(path, path.stat())
            return path.open("rb")

    def create(self, key: str, data: Buffer, *, crc64: int | None = None) -> ObjectInfo:
        """See ObjectStore; a file system keeps no checksum, so `crc64` has no use here."""
        path, view = self._path(key), byte_view(data)
        with self._undone_on_error(path), _explained("create", path, view.nbytes):
            return _info(key, create_file(path, view))

    def put(self, key: str, data: Buffer) -> ObjectInfo:
        """See ObjectStore."""
        path, view = self._path(key), byte_view(data)
        with self._undone_on_error(path), _explained("write", path, view.nbytes):
            return _info(key, replace_file(path, view))

    def delete(self, keys: Iterable[str]) -> None:
        """See ObjectStore. Folders that are left empty go too."""
        for key in keys:
            path = self._path(key)
            with _explained("delete", path), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
            self._prune(path.parent)

    def discard_unfinished(self, prefix: str) -> None:
        """See ObjectStore. A writer whose temporary file is gone makes it again (finetune_trainer.store.atomic)."""
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                if name.startswith(TEMPORARY_PREFIX):
                    path = Path(folder, name)
                    with _explained("delete", path):
                        path.unlink(missing_ok=True)
                    self._prune(path.parent)

    def _path(self, key: str) -> Path:
        check_key(key, self.uri)
        return self.root / key

    def _walk(
        self, folder: Path, base: str, start: str, recursive: bool, above: tuple[tuple[int, int], ...]
    ) -> Iterator[ObjectInfo]:
        """Files below `folder` whose names begin with `start`, in byte order of the whole keys."""
        try:
            status = folder.stat()
            entries = [entry for entry in os.scandir(folder) if entry.name.startswith(start)]
        except (FileNotFoundError, NotADirectoryError):  # no such prefix, or pruned meanwhile
            return
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a symbolic link to a folder above: its files were listed already
            return
        # A folder's name sorts with the slash that follows it in its keys.
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name + "/" * entry.is_dir())):
            if entry.is_dir():
                if recursive:
                    yield from self._walk(Path(entry.path), f"{base}{entry.name}/", "", True, (*above, identity))
            elif entry.is_file() and not entry.name.startswith(TEMPORARY_PREFIX):
                with suppress(FileNotFoundError):
                    yield _info(base + entry.name, entry.stat())

    @contextmanager
    def _undone_on_error(self, path: Path) -> Iterator[None]:
        try:
            yield
        except ObjectExists:
            raise
        except StorageError:
            self._prune(path.parent)
            raise

    def _prune(self, folder: Path) -> None:
        """Remove `folder` and its parents as long as they are empty, up to the root, which stays."""
        with suppress(OSError):
            while folder != self.root and self.root in folder.parents:
                folder.rmdir()
                folder = folder.parent


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, f"{status.st_mtime_ns}-{status.st_size}")


def _regular(path: Path, status: os.stat_result) -> os.stat_result:
    if stat.S_ISDIR(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return status


@contextmanager
def _explained(action: str, path: Path, size: int | None = None) -> Iterator[None]:
    """Turn the operating system's errors into StorageErrors that say what to do."""
    try:
        yield
    except OSError as error:
        raise explain(error, action, path, size) from error


def explain(error: OSError, action: str, path: Path, size: int | None = None) -> StorageError:
    """The StorageError for an OSError met when `action` was done to `path`, with `size` bytes to write."""
    what = f"cannot {action} {path}" + ("" if size is None else f" ({size} bytes)")
    reason = os.strerror(error.errno) if error.errno else str(error)
    if size is None and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return ObjectNotFound(f"{what}: there is no such file")
    if error.errno == errno.EEXIST:
        return ObjectExists(f"{path} exists already and is never overwritten")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{what}: the disk is full{_free(path)}; make room there or use a store elsewhere")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageRefused(f"{what}: {reason}; give user {os.getuid()} the right to, or use another folder")
    if error.errno in (errno.ENOTDIR, errno.EISDIR):
        return StorageRefused(f"{what}: {reason}; a file and a folder cannot have one name, use another folder")
    if error.errno == errno.EFBIG:
        return StorageRefused(f"{what}: {reason}; raise the limit (ulimit -f) or use another file system")
    return StorageError(f"{what}: {reason}")


def _free(path: Path) -> str:
    for folder in path.parents:
        if folder.is_dir():
            return f" ({shutil.disk_usage(folder).free} bytes free under {folder})"
    return ""
