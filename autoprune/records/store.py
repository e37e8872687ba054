"""Candidate records <-> `candidates/<id>/`: written once, hashed, and quarantined when found corrupt."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from autoprune.errors import CandidateError, StorageError
from autoprune.records.record import CandidateRecord
from autoprune.storage import (
    dump_json,
    is_plain_name,
    parse_json,
    read_regular,
    remove_stale,
    storage_errors,
    verify_directory,
    write_directory,
)
from autoprune.storage.atomic import temporary_path

RECORD_LIMIT = 16 << 20
FILE_LIMIT = 1 << 30
QUARANTINE = ".quarantine"
CANDIDATES = "candidates"
PENDING = ".pending"

_ID = re.compile(r"[a-z0-9-]{1,100}")
_log = logging.getLogger("autoprune")


def is_candidate_id(name: str) -> bool:
    """Tell whether `name` can be a candidate's: lower-case letters, digits and hyphens."""
    return _ID.fullmatch(name) is not None


class RecordStore:
    """The finished candidates of one run.

    Args:
        run_dir: The run's directory.
        folder: The one in it that holds them, created at the first write; another is that of unfinished ones.
    """

    def __init__(self, run_dir: Path, folder: str = CANDIDATES) -> None:
        self.directory = run_dir / folder

    def path(self, candidate: str) -> Path:
        """Return the directory of a candidate id, whether it exists or not."""
        if not _ID.fullmatch(candidate):
            raise StorageError(f"{candidate!r} is no candidate id: lower-case letters, digits and hyphens only.")
        return self.directory / candidate

    def write(self, record: CandidateRecord, files: Mapping[str, bytes] | None = None) -> Path:
        """Store a record and its extra files; on return they are durable.

        A complete record of the same id stays as it is; a corrupt one is quarantined and written anew.

        Raises:
            CandidateError: A number in the record is not finite.
            StorageError: Disk full, permission, or another failure of the file system.
        """
        path = self.path(record.id)
        try:
            documents = {"record.json": dump_json(record.to_json()), "policy.json": dump_json(record.policy)}
        except ValueError as error:
            message = f"Candidate {record.id} cannot be recorded: {error}"
            raise CandidateError(message, reason="nonfinite", stage="record") from error
        content = {**(files or {}), **documents}
        if not write_directory(path, content) and self._read(path) is None:
            write_directory(path, content)
        return path

    def load(self, candidate: str) -> CandidateRecord | None:
        """Return the intact record of a candidate id, if there is one; a corrupt one is quarantined."""
        path = self.path(candidate)
        return self._read(path) if path.exists() else None

    def load_all(self) -> list[CandidateRecord]:
        """Return every intact record by number; corrupt ones move to `.quarantine/` with a warning each.

        Raises:
            StorageError: The directory cannot be read or cleaned.
        """
        if not self.directory.exists():
            return []
        remove_stale(self.directory)
        with storage_errors(self.directory):
            paths = sorted(p for p in self.directory.iterdir() if _ID.fullmatch(p.name))
        records = [record for path in paths if (record := self._read(path)) is not None]
        return sorted(records, key=lambda record: (record.number, record.id))

    def read_file(self, candidate: str, name: str) -> bytes:
        """Return a file of a candidate after checking its hash.

        Raises:
            StorageError: There is no such file, or it was altered.
        """
        path = self.path(candidate)
        problems = verify_directory(path, only=[name]) if is_plain_name(name) else [f"{name!r}: not a plain name"]
        if problems:
            raise StorageError(f"Cannot read {name!r} of candidate {candidate}: {'; '.join(problems)}.")
        with storage_errors(path / name):
            return read_regular(path / name, limit=FILE_LIMIT)

    def discard(self, candidate: str) -> None:
        """Put a record aside, in the quarantine, so that its candidate can be evaluated anew."""
        self._quarantine(self.path(candidate), ["discarded to be evaluated again"], level=logging.INFO)

    def remove(self, candidate: str) -> None:
        """Delete a candidate's directory, if there is one."""
        aside = temporary_path(self.directory)
        with storage_errors(self.directory), suppress(FileNotFoundError):
            self.path(candidate).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _read(self, path: Path) -> CandidateRecord | None:
        """Return the record in `path`, or quarantine the directory."""
        try:
            problems = ["it is a symbolic link"] if path.is_symlink() else verify_directory(path)
            if not problems:
                record = CandidateRecord.from_json(parse_json(read_regular(path / "record.json", limit=RECORD_LIMIT)))
                if record.id == path.name:
                    return record
                problems = [f"it holds the record of {record.id!r}"]
        except (OSError, ValueError) as error:
            problems = [str(error)]
        self._quarantine(path, problems)
        return None

    def _quarantine(self, path: Path, problems: list[str], *, level: int = logging.WARNING) -> None:
        shelf = self.directory / QUARANTINE
        with storage_errors(path):
            shelf.mkdir(exist_ok=True)
            number = sum(1 for p in shelf.iterdir() if p.name.rpartition(".")[0] == path.name)
            path.rename(shelf / f"{path.name}.{number}")
        _log.log(level, "Candidate %s was moved to %s: %s", path.name, shelf, "; ".join(problems))
