"""Candidates <-> object store: for workers that share no file system with the driver.

A file is stored under a name that holds its hash, a manifest after all its files and in one step: what is listed is
complete, what is half pushed is not seen. Credentials and endpoints are those that fsspec finds in the environment.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from autoprune.config import Document, RunConfig, changes_since, effective_config
from autoprune.errors import ConfigError, MissingExtraError, StorageError
from autoprune.records.store import CANDIDATES, FILE_LIMIT, RecordStore, is_candidate_id
from autoprune.storage import (
    MANIFEST,
    FileEntry,
    dump_json,
    parse_json,
    parse_manifest,
    read_manifest,
    write_directory,
)
from autoprune.storage.faults import fault_point

if TYPE_CHECKING:
    from upath import UPath

RUN_FILE = "run.json"
DOCUMENT_LIMIT = 1 << 20
CHUNK = 1 << 25
STREAMS = 8
HASH_DIGITS = 16
INSTALL = "pip install 'autoprune[remote]'"

_log = logging.getLogger("autoprune")


class _AbsentError(StorageError):
    """There is no such object, folder or bucket."""


class _DamagedError(StorageError):
    """What lies in the store is not what was pushed."""


class RemoteStore:
    """The candidates of one run in an object store.

    Args:
        url: Folder of the run, such as `s3://bucket/prefix/name`: any URL that fsspec knows.

    Raises:
        MissingExtraError: The library for such a URL is not installed.
        ConfigError: The URL is of no known kind, or holds credentials.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._root = _opened(url)

    def claim(self, config: RunConfig, identity: Mapping[str, str], *, accept_changes: bool = False) -> None:
        """Note whose results lie here, or check that this run may continue what does.

        Args:
            config: The run's configuration.
            identity: Digests of task and data.
            accept_changes: Continue in spite of differences.

        Raises:
            ConfigError: The earlier run had another configuration, task or data, or its configuration cannot be read.
        """
        known = self._document(self._root / RUN_FILE)
        if isinstance(known, dict) and not accept_changes:
            changed = changes_since(Document(known.get("config"), {}, f"{self.url}/{RUN_FILE}"), config)
            before = known.get("identity", {})
            changed += [f"{name} has changed" for name, value in identity.items() if before.get(name, value) != value]
            if changed:
                raise ConfigError(
                    f"{self.url} holds a run that differs from this one: {'; '.join(changed)}.",
                    hint="Choose another --name or executor.store, or continue it all the same with --accept-changes.",
                    problems=changed,
                )
        self._write(self._root / RUN_FILE, dump_json({"config": effective_config(config), "identity": dict(identity)}))

    def push(self, directory: Path) -> None:
        """Upload a candidate's directory, such as `candidates/<id>`, its manifest last; what was there is replaced.

        Raises:
            StorageError: The directory or the store cannot be used.
        """
        target = self._root / directory.parent.name / directory.name
        try:
            entries = read_manifest(directory)
        except (OSError, ValueError) as error:
            raise StorageError(f"Cannot send {directory} to {self.url}: {error}.") from error
        with self._errors():
            for name, entry in entries.items():
                target.fs.put_file(str(directory / name), (target / _object_name(name, entry)).path)
                fault_point("object-pushed", name)
        self._write(target / MANIFEST, (directory / MANIFEST).read_bytes())
        fault_point("manifest-pushed")

    def pull(self, candidate: str, run_dir: Path, folder: str = CANDIDATES) -> bool:
        """Download a candidate that is complete and intact, unless the run's directory holds it.

        What does not fit its manifest is left out, with a warning.

        Returns:
            Whether the run's directory holds it now.

        Raises:
            StorageError: The store cannot be read, or the directory not be written.
        """
        path = RecordStore(run_dir, folder).path(candidate)
        if path.exists():
            return True
        source = self._root / folder / candidate
        try:
            entries = self._manifest(source)
            if entries is None:
                return False
            files = {name: partial(self._download, source, name, entry) for name, entry in entries.items()}
            write_directory(path, files)
        except _DamagedError as error:
            _log.warning("%s/%s/%s was left out: %s", self.url, folder, candidate, error)
            return False
        return True

    def pull_all(self, run_dir: Path) -> list[str]:
        """Download every finished candidate that the run's directory lacks, and return what came.

        Raises:
            StorageError: The store cannot be read, or the directory not be written.
        """
        store = RecordStore(run_dir)
        missing = [name for name in self._names(CANDIDATES) if not store.path(name).exists()]
        with ThreadPoolExecutor(STREAMS) as pool:
            came = pool.map(partial(self.pull, run_dir=run_dir), missing)
            return [name for name, whole in zip(missing, came, strict=True) if whole]

    def remove(self, candidate: str, folder: str = CANDIDATES) -> None:
        """Delete a candidate, its manifest first."""
        path = self._root / folder / candidate
        with suppress(_AbsentError):
            with self._errors():
                path.fs.rm_file((path / MANIFEST).path)
            with self._errors():
                path.fs.rm(path.path, recursive=True)

    def _names(self, folder: str) -> list[str]:
        """Return the ids of a folder; names that are none are passed over."""
        try:
            with self._errors():
                listed = self._root.fs.ls((self._root / folder).path, detail=False)
        except _AbsentError:
            return []
        names = sorted({str(path).rstrip("/").rpartition("/")[2] for path in listed})
        return [name for name in names if is_candidate_id(name)]

    def _manifest(self, source: UPath) -> dict[str, FileEntry] | None:
        try:
            with self._errors():
                data = source.fs.cat_file((source / MANIFEST).path, start=0, end=DOCUMENT_LIMIT)
        except _AbsentError:
            return None
        try:
            entries = parse_manifest(data)
        except ValueError as error:
            raise _DamagedError(str(error)) from error
        too_large = [name for name, entry in entries.items() if entry.bytes > FILE_LIMIT]
        if too_large:
            raise _DamagedError(f"{too_large[0]} is larger than the limit of {FILE_LIMIT} bytes")
        return entries

    def _download(self, source: UPath, name: str, entry: FileEntry, path: Path) -> None:
        """Write an object to `path`, in parts, and compare it with its manifest's entry."""
        digest = hashlib.sha256()
        with path.open("xb") as file:
            for part in self._parts(source / _object_name(name, entry), entry.bytes):
                digest.update(part)
                file.write(part)
        if digest.hexdigest() != entry.sha256:
            raise _DamagedError(f"{name}: sha256 differs from the manifest")

    def _parts(self, source: UPath, size: int) -> Iterator[bytes]:
        for start in range(0, size, CHUNK):
            end = min(start + CHUNK, size)
            try:
                with self._errors():
                    part: bytes = source.fs.cat_file(source.path, start=start, end=end)
            except _AbsentError:
                raise _DamagedError(f"{source.name} is missing") from None
            if len(part) != end - start:
                raise _DamagedError(f"{source.name} is shorter than the manifest says")
            yield part

    def _document(self, path: UPath) -> Any:
        """Return a JSON document; None where it is missing or damaged."""
        try:
            with self._errors():
                data = path.fs.cat_file(path.path, start=0, end=DOCUMENT_LIMIT)
            return parse_json(data)
        except (_AbsentError, _DamagedError, ValueError):
            return None

    def _write(self, path: UPath, data: bytes) -> None:
        with self._errors():
            path.fs.pipe_file(path.path, data)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what fsspec's libraries raise, each its own kinds, into ours; their texts are not passed on."""
        try:
            yield
        except FileNotFoundError as error:
            raise _AbsentError(f"{self.url} has no such object.", hint="Create the bucket first.") from error
        except Exception as error:
            if getattr(error, "errno", None) == errno.EINVAL:
                raise _DamagedError("an object is shorter than the manifest says") from error
            raise StorageError(
                f"The store {self.url} cannot be used: {type(error).__name__}.",
                hint="Give credentials and endpoint by the environment (such as AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL), "
                "then run the same command again: it resumes.",
            ) from error


def _object_name(name: str, entry: FileEntry) -> str:
    return f"{entry.sha256[:HASH_DIGITS]}-{name}"


def _opened(url: str) -> UPath:
    kind, parts = url.partition("://")[0], urlsplit(url)
    if parts.username or parts.password or parts.query or not parts.scheme:
        shown = f"{kind}://..." if parts.scheme else repr(url)
        raise ConfigError(
            f"executor.store must be a URL without user, password and query, such as s3://bucket/prefix. Got {shown}.",
            hint="Credentials come from the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    try:
        from upath import UPath

        options: dict[str, Any] = {"auto_mkdir": True} if kind in {"file", "local"} else {}
        path: UPath = UPath(url, use_listings_cache=False, **options)
        _ = path.fs
    except ImportError as error:
        raise MissingExtraError(
            f"executor.store needs a library for {kind}:// that is not installed: {error}.",
            hint=INSTALL if error.name == "upath" or kind.startswith("s3") else str(error),
        ) from error
    except ValueError as error:
        raise ConfigError(f"executor.store: no file system for {kind}:// is known: {error}.") from error
    return path
