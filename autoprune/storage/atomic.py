"""Bytes -> files that are either complete or invisible: temporary name, fsync, rename.

A writer holds a lock on its temporary, which the kernel frees when the process dies: whatever temporary can be locked
belongs to nobody and is deleted. The lock of a temporary directory is that of its manifest.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from autoprune.errors import StorageError
from autoprune.storage.faults import fault_point

MANIFEST = "MANIFEST.json"
_PREFIX = ".tmp-"
_TEMPORARY = re.compile(re.escape(_PREFIX) + "[0-9a-f]{16}")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system error into a `StorageError` that names `path` and the free bytes beside it."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Cannot store {path}: {error.strerror or error} ({free_bytes(path)} bytes free).",
            hint="Free disk space or make the directory writable, then run the same command again: it resumes.",
        ) from error


def free_bytes(path: Path) -> str:
    """Return the free bytes of the file system of `path`, or of its nearest parent that exists, as text."""
    for parent in (path, *path.parents):
        try:
            return str(shutil.disk_usage(parent).free)
        except OSError:
            continue
    return "unknown"


def write_file(path: Path, data: bytes) -> None:
    """Replace the file `path` by `data` in one step.

    Raises:
        StorageError: Disk full, permission, or another failure of the file system.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path.parent)
        try:
            with temporary.open("xb") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                handle.write(data)
                flush(handle)
                fault_point("file-written", path.name)
                temporary.replace(path)
                fault_point("file-renamed", path.name)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_directory(path.parent)


def is_temporary(name: str) -> bool:
    """Tell whether `name` is that of a temporary of this module."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_stale(parent: Path) -> None:
    """Delete the temporaries in `parent` whose writers are dead."""
    with storage_errors(parent):
        for entry in sorted(p for p in parent.iterdir() if is_temporary(p.name)):
            if not entry.is_dir():
                _remove_ownerless(entry)
            elif not entry.is_symlink() and _remove_ownerless(entry / MANIFEST):
                shutil.rmtree(entry, ignore_errors=True)


def read_regular(path: Path, *, limit: int) -> bytes:
    """Read a regular file without following a link.

    Args:
        path: The file.
        limit: Largest size in bytes that is read at all.

    Raises:
        OSError: It cannot be opened, or is a symbolic link.
        ValueError: It is no regular file or too large.
    """
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > limit:
            raise ValueError(f"{path.name} has {size} bytes, more than the limit of {limit}")
        return handle.read(limit + 1)[:limit]


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; a link or anything else is an error, and nothing is waited for."""
    handle = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise ValueError(f"{path.name} is not a regular file")
    return handle


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush(handle: BinaryIO) -> None:
    """Make what was written to `handle` durable."""
    handle.flush()
    os.fsync(handle.fileno())


def temporary_path(parent: Path) -> Path:
    """Return a new name in `parent` that `remove_stale` knows."""
    return parent / f"{_PREFIX}{secrets.token_hex(8)}"


def claim_directory(parent: Path) -> tuple[Path, BinaryIO]:
    """Create a temporary directory and return it with its open, locked manifest."""
    while True:
        temporary = temporary_path(parent)
        temporary.mkdir()
        fault_point("directory-made", parent.name)
        try:
            manifest = (temporary / MANIFEST).open("xb")
        except FileNotFoundError:  # another process took it for stale before it was locked
            continue
        fcntl.flock(manifest, fcntl.LOCK_EX)
        if (temporary / MANIFEST).exists():
            return temporary, manifest
        manifest.close()


def _remove_ownerless(file: Path) -> bool:
    """Delete a temporary file that no live process has locked; return whether it is gone.

    It goes while locked: a writer that was about to lock it then sees that it is gone and takes another name.
    """
    try:
        with file.open("r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
