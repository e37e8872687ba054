"""Where a worker leaves its records: in the run's directory, or in the run's object store."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoprune.records import PENDING, CandidateRecord, RecordStore, RemoteStore
from autoprune.search.setup import Setup


class Outbox:
    """The finished and the unfinished candidates of a run, as a worker writes and reads them.

    With a store, a record is written to a directory of the worker's own, sent, and deleted there.

    Args:
        setup: The run.

    Raises:
        ConfigError: The store's URL cannot be used.
        MissingExtraError: The store needs a library that is not installed.
    """

    def __init__(self, setup: Setup) -> None:
        self._remote = None if setup.store is None else RemoteStore(setup.store)
        directory = setup.directory
        if self._remote is not None:
            directory = Path(tempfile.mkdtemp(prefix="autoprune-"))
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self._directory = directory
        self._finished = RecordStore(directory)
        self._unfinished = RecordStore(directory, PENDING)

    def write(self, record: CandidateRecord, files: Mapping[str, bytes]) -> None:
        """Leave a record with its files; once it is finished, what was left of its first half goes.

        Raises:
            CandidateError: A number in the record is not finite.
            StorageError: The directory or the store cannot be written.
        """
        store = self._unfinished if record.is_unfinished else self._finished
        if record.is_unfinished:
            store.remove(record.id)
        path = store.write(record, files)
        if self._remote is not None:
            self._remote.push(path)
            store.remove(record.id)

    def unfinished(self, candidate: str, names: Sequence[str] = ()) -> tuple[CandidateRecord, dict[str, bytes]] | None:
        """Return an unfinished candidate with some of its files; None where there is none that is intact.

        Raises:
            StorageError: The directory or the store cannot be read.
        """
        if self._remote is not None:
            self._remote.pull(candidate, self._directory, PENDING)
        record = self._unfinished.load(candidate)
        if record is None:
            return None
        return record, {name: self._unfinished.read_file(candidate, name) for name in names}

    def forget(self, candidate: str) -> None:
        """Delete what the first half of a finished candidate has left."""
        self._unfinished.remove(candidate)
        if self._remote is not None:
            self._remote.remove(candidate, PENDING)
