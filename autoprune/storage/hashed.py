"""Files -> directory with a sha256 manifest, and back: what was not written by us as it stands is found."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from autoprune.storage.atomic import (
    MANIFEST,
    claim_directory,
    flush,
    fsync_directory,
    open_regular,
    read_regular,
    storage_errors,
    temporary_path,
)
from autoprune.storage.faults import fault_point
from autoprune.storage.jsonio import dump_json, parse_json

FORMAT_VERSION = "1.0"
MANIFEST_LIMIT = 1 << 20

Source: TypeAlias = bytes | Callable[[Path], None]
"""Content of a file, or a function that writes it to the path it is given."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HASH = re.compile(r"[0-9a-f]{64}")
_OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


class FileEntry(NamedTuple):
    """What a manifest vouches for: a file's SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    bytes: int


def is_plain_name(name: str) -> bool:
    """Tell whether `name` is safe as a file name in a hashed directory: one plain component, no leading dot."""
    return _NAME.fullmatch(name) is not None


def write_directory(path: Path, files: Mapping[str, Source], *, replace: bool = False) -> bool:
    """Create the directory `path` from `files` and a manifest, in one step.

    Args:
        path: The directory; its parents are created.
        files: Plain file name -> content.
        replace: Whether an existing directory is exchanged; otherwise it is left as it is.

    Returns:
        Whether the directory was written; False where `path` existed.

    Raises:
        StorageError: Disk full, permission, or another failure of the file system.
        ValueError: A file name is not plain.
    """
    for name in files:
        if not is_plain_name(name) or name == MANIFEST:
            raise ValueError(f"{name!r} cannot be a file of a hashed directory")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, manifest = claim_directory(path.parent)
        try:
            entries = {name: _write_source(temporary / name, files[name]) for name in sorted(files)}
            fault_point("directory-filled", path.parent.name)
            manifest.write(manifest_bytes(entries))
            flush(manifest)
            fsync_directory(temporary)
            fault_point("directory-written", path.parent.name)
            written = _publish(temporary, path, replace=replace)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            manifest.close()
        fault_point("directory-renamed", path.parent.name)
        fsync_directory(path.parent)
        fault_point("directory-durable", path.parent.name)
        return written


def manifest_bytes(entries: Mapping[str, FileEntry]) -> bytes:
    """Return the one canonical form of a manifest, so that any altered byte of it shows."""
    files = {name: entries[name]._asdict() for name in sorted(entries)}
    return dump_json({"format_version": FORMAT_VERSION, "files": files})


def read_manifest(directory: Path) -> dict[str, FileEntry]:
    """Return what the manifest of `directory` lists; the files themselves are not looked at.

    Raises:
        ValueError: The manifest is missing, altered, unsafe or of another format version.
    """
    return parse_manifest(read_regular(directory / MANIFEST, limit=MANIFEST_LIMIT))


def parse_manifest(data: bytes) -> dict[str, FileEntry]:
    """Return what a manifest lists.

    Raises:
        ValueError: It is altered, unsafe or of another format version.
    """
    document = parse_json(data)
    listed = document.get("files") if isinstance(document, dict) else None
    if not isinstance(listed, dict) or document.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{MANIFEST} is no manifest of format version {FORMAT_VERSION}")
    entries = {name: _parse_entry(name, value) for name, value in listed.items()}
    if data != manifest_bytes(entries):
        raise ValueError(f"{MANIFEST} was altered")
    return entries


def verify_directory(directory: Path, *, only: Collection[str] | None = None) -> list[str]:
    """Compare a hashed directory with its manifest and return every problem found.

    Args:
        directory: The directory; a symbolic link inside it is a problem.
        only: Names that have to be right; None demands all listed files and no others.
    """
    try:
        entries = read_manifest(directory)
    except (OSError, ValueError) as error:
        return [_describe(MANIFEST, error)]
    problems = [f"{name}: not in {MANIFEST}" for name in sorted(set(only or ()) - set(entries))]
    for name, entry in entries.items():
        if only is None or name in only:
            problems += _check_file(directory / name, entry)
    if only is None:
        known = {MANIFEST, *entries}
        problems += [f"{p.name!r}: not in {MANIFEST}" for p in sorted(directory.iterdir()) if p.name not in known]
    return problems


def _publish(temporary: Path, path: Path, *, replace: bool) -> bool:
    """Rename `temporary` to `path`; the directory that stood there is moved aside and deleted."""
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
    else:
        return True
    if not replace:
        return False
    aside = temporary_path(path.parent)
    path.rename(aside)
    fault_point("directory-aside", path.parent.name)
    temporary.rename(path)
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _write_source(path: Path, source: Source) -> FileEntry:
    if isinstance(source, bytes):
        with path.open("xb") as handle:
            handle.write(source)
            flush(handle)
        fault_point("directory-file", path.name)
        return FileEntry(hashlib.sha256(source).hexdigest(), len(source))
    source(path)
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
        return FileEntry(hashlib.file_digest(handle, "sha256").hexdigest(), os.fstat(handle.fileno()).st_size)


def _parse_entry(name: str, value: object) -> FileEntry:
    if not is_plain_name(name) or name == MANIFEST:
        raise ValueError(f"{MANIFEST} lists the unsafe name {name!r}")
    if not isinstance(value, dict) or set(value) != set(FileEntry._fields):
        raise ValueError(f"{MANIFEST}: entry of {name!r} is not {{sha256, bytes}}")
    digest, size = value["sha256"], value["bytes"]
    if not isinstance(digest, str) or not _HASH.fullmatch(digest) or not isinstance(size, int) or size < 0:
        raise ValueError(f"{MANIFEST}: entry of {name!r} has no valid sha256 and size")
    return FileEntry(digest, size)


def _check_file(path: Path, entry: FileEntry) -> list[str]:
    try:
        with open_regular(path) as handle:
            size = os.fstat(handle.fileno()).st_size
            if size != entry.bytes:
                return [f"{path.name}: {size} bytes, the manifest says {entry.bytes}"]
            if hashlib.file_digest(handle, "sha256").hexdigest() != entry.sha256:
                return [f"{path.name}: sha256 differs from the manifest"]
    except (OSError, ValueError) as error:
        return [_describe(path.name, error)]
    return []


def _describe(name: str, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{name}: missing"
    if isinstance(error, OSError):
        reason = "is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
        return f"{name}: {reason}"
    return str(error)
