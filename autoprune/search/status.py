"""A run's directory -> where it stands, read from another process; nothing of it is imported or run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from autoprune.config import RunConfig, read_yaml, validate
from autoprune.errors import OutputError, RunLockedError
from autoprune.records import Owner, RecordStore, RunLock
from autoprune.records.lock import read_owner
from autoprune.report.document import read_front
from autoprune.search.directory import CONFIG_FILE, EVENTS_FILE, FRONT_FILE, RunDirectory, total_times
from autoprune.search.finalists import front_so_far
from autoprune.search.objectives import Objective

State = Literal["running", "stopped", "finished"]


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Args:
        name: Run name.
        state: `running` while a process owns it, `finished` once its front is written, else `stopped`.
        owner: host, pid and start of the owning process, while running.
        evaluations: Fidelity -> complete candidates.
        failed: Candidates that failed, by reason.
        total: Candidates that the search may evaluate.
        wall_seconds: Seconds spent by all calls so far.
        front: (id, values) of the non-dominated search candidates.
        members: Models of the written front.
    """

    name: str
    state: State
    owner: Mapping[str, Any] | None
    evaluations: Mapping[str, int]
    failed: Mapping[str, int]
    total: int
    wall_seconds: float
    front: tuple[tuple[str, Mapping[str, float]], ...]
    members: int

    def to_json(self) -> dict[str, Any]:
        """Return the status as plain JSON values."""
        front = [{"id": i, "values": dict(v)} for i, v in self.front]
        return {"schema_version": "1.0", **asdict(self), "front": front}


def read_status(path: Path) -> RunStatus:
    """Return where the run in a directory stands.

    Raises:
        OutputError: The directory holds no run.
    """
    directory = RunDirectory(path)
    if not directory.started:
        raise OutputError(f"{path} holds no run of autoprune.", hint="`autoprune search CONFIG` starts one.")
    config = validate(RunConfig, read_yaml(path / CONFIG_FILE))
    records = RecordStore(path).load_all()
    search = [r for r in records if r.fidelity == "short"]
    objectives = [Objective(**o) for o in directory.about().get("objectives", [])]
    owner = running_owner(path)
    front = path / FRONT_FILE
    members = len(read_front(front).members) if front.is_file() else 0
    return RunStatus(
        name=config.name,
        state="running" if owner else ("finished" if members else "stopped"),
        owner=owner._asdict() if owner else None,
        evaluations=Counter(r.fidelity for r in records if r.state == "complete"),
        failed=Counter((r.failure or {}).get("reason", "unknown") for r in records if r.state == "failed"),
        total=config.search.budget.evaluations,
        wall_seconds=total_times(path / EVENTS_FILE)[0],
        front=front_so_far(search, objectives) if objectives else (),
        members=members,
    )


def running_owner(path: Path) -> Owner | None:
    """Return who holds the run's lock at this moment; None where nobody does."""
    try:
        with RunLock(path, patience_s=0.0):
            return None
    except RunLockedError:
        return read_owner(path)
