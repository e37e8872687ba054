"""What is being evaluated, on disk: a driver that is killed queues it again instead of proposing something else."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoprune.errors import AutopruneError
from autoprune.policy import Policy
from autoprune.records import Fidelity
from autoprune.search.executors.base import Job
from autoprune.storage import dump_json, parse_json, read_regular, storage_errors

UNDERWAY = ".underway"
TRIES = 2
LIMIT = 1 << 20
SUFFIX = ".json"


class Underway:
    """One small file for each job that was submitted and has no record yet. They need not survive a power cut.

    Args:
        run_dir: The run's directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / UNDERWAY
        self._tries: dict[str, int] = {}

    def add(self, job: Job) -> None:
        """Note that a job is about to be submitted.

        Raises:
            StorageError: Disk full, permission, or another failure of the file system.
        """
        document = {
            "number": job.number,
            "policy": job.policy.to_json(),
            "fidelity": job.fidelity,
            "proposal": job.proposal,
            "origin": job.origin,
            "predicted": job.predicted,
            "tries": self._tries.get(job.id, 0) + 1,
        }
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path(job.id).write_bytes(dump_json(document))

    def remove(self, candidate: str) -> None:
        """Note that a candidate has its record."""
        with storage_errors(self._folder):
            self._path(candidate).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the folder where nothing is under way."""
        with suppress(OSError):
            self._folder.rmdir()

    def left(self, fidelity: Fidelity, recorded: Collection[str]) -> list[Job]:
        """Return the jobs of a fidelity that an earlier driver left, by number; one that was tried twice no more.

        Args:
            fidelity: Of the phase that goes on.
            recorded: Ids of all candidates that have a record.
        """
        found = []
        with storage_errors(self._folder):
            paths = sorted(self._folder.glob(f"*{SUFFIX}")) if self._folder.is_dir() else []
        for path in paths:
            try:
                document: Any = parse_json(read_regular(path, limit=LIMIT))
                job, tries = _job_of(document), int(document["tries"])
            except (AutopruneError, OSError, ValueError, TypeError, KeyError):
                self.remove(path.stem)
                continue
            if job.id != path.stem or job.id in recorded or tries >= TRIES:
                self.remove(path.stem)
            elif job.fidelity == fidelity:
                self._tries[job.id] = tries
                found.append(job)
        return sorted(found, key=lambda job: job.number)

    def _path(self, candidate: str) -> Path:
        return self._folder / f"{candidate}{SUFFIX}"


def _job_of(document: Any) -> Job:
    return Job(
        int(document["number"]),
        Policy.from_json(document["policy"]),
        document["fidelity"],
        dict(document["proposal"]),
        str(document["origin"]),
        dict(document["predicted"]),
    )
