"""What a run gives back, and whether an earlier call has given it already."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.config import LoadedConfig, config_digest
from autoprune.errors import StorageError, UnmetConstraintError
from autoprune.records import RecordStore
from autoprune.report.document import FrontDocument, Member, read_front
from autoprune.report.pick import pick
from autoprune.search.directory import (
    EVENTS_FILE,
    FRONT_FILE,
    INDEX_SETTLED,
    EventLog,
    RunDirectory,
    ended_well,
    index_is_behind,
)
from autoprune.search.ledger import stage_of
from autoprune.storage import verify_directory
from autoprune.tasks import TaskRef

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SearchResult:
    """A finished run.

    Args:
        directory: Where everything lies.
        front: What `front.json` holds.
    """

    directory: Path
    front: FrontDocument

    def pick(
        self, *, max_latency_ms: float | None = None, require: Sequence[str] = (), max_drop: float | None = None
    ) -> Member:
        """Return the best member that satisfies every demand; members' directories are relative to `directory`.

        Raises:
            UnmetConstraintError: None does.
        """
        return pick(self.front, max_latency_ms=max_latency_ms, require=require, max_drop=max_drop)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a member as a pandas table."""
        import pandas as pd

        from autoprune.report.writers import member_rows

        return pd.DataFrame(member_rows(self.front))


def settled(result: SearchResult) -> SearchResult:
    """Return a result after bringing `study.db` up to date where another process had it locked during the search.

    Raises:
        RunLockedError: It is locked still.
    """
    if index_is_behind(result.directory / EVENTS_FILE):
        from autoprune.search.study import STUDY_FILE, StudyIndex

        objectives = result.front.objectives
        directions = ["maximize" if o.direction == "max" else "minimize" for o in objectives]
        records = [r for r in RecordStore(result.directory).load_all() if stage_of(r) == "search"]
        index = StudyIndex(result.directory / STUDY_FILE, result.front.run, directions, [o.name for o in objectives])
        with closing(index):
            index.sync(records)
            index.settle()
        EventLog(result.directory / EVENTS_FILE).add(INDEX_SETTLED)
    return result


def satisfied(result: SearchResult) -> SearchResult:
    """Return a result whose front holds at least one model that meets the constraints.

    Raises:
        UnmetConstraintError: The front is empty, or none of its models does.
    """
    front = result.front
    if not front.members:
        raise UnmetConstraintError(
            "No finalist is better than the dense model: the front is empty.",
            hint="Give the search more evaluations or recovery.full_steps, or take a target less bound by overhead.",
        )
    if not any(m.feasible for m in front.members):
        demands = ", ".join(c.expression for c in front.constraints)
        raise UnmetConstraintError(
            f"No model satisfies {demands}; the front in {result.directory} shows how near they come.",
            hint="Relax the constraints, or give the search a larger budget.",
        )
    return result


def finished_front(loaded: LoadedConfig, directory: RunDirectory) -> FrontDocument | None:
    """Return the front of a run that has nothing left to do: same configuration and task, every member intact.

    The data are not loaded for it: whoever changed them gives the run another name.
    """
    path = directory.path / FRONT_FILE
    if not path.is_file() or not ended_well(directory.path / EVENTS_FILE):
        return None
    try:
        front = read_front(path)
    except StorageError:
        return None
    reference = TaskRef(loaded.config.task, loaded.config.task_args, loaded.base)
    made_with = (front.provenance.config_sha256, front.provenance.task_sha256)
    if made_with != (config_digest(loaded.config), reference.sha256):
        return None
    whole = all(m.directory and not verify_directory(directory.path / m.directory) for m in front.members)
    return front if whole and front.members else None
