"""A run's directory -> where it stands, read from another process; nothing of it is imported or run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoprune.config import RunConfig, read_yaml, validate
from autoprune.errors import OutputError
from autoprune.records import CandidateRecord, Owner, RecordStore, owner_of
from autoprune.report.document import read_front
from autoprune.search.directory import CONFIG_FILE, EVENTS_FILE, FRONT_FILE, RunDirectory, total_times
from autoprune.search.ledger import Tally, stage_of
from autoprune.search.objectives import Objective, minimised

State = Literal["running", "stopped", "finished"]


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Args:
        name: Run name.
        state: `running` while a process owns it, `finished` once its front is written, else `stopped`.
        owner: host, pid and start of the owning process, while running.
        evaluations: Fidelity -> complete candidates, further recovery seeds included; controls are apart.
        failed: Candidates that failed, by reason.
        total: Briefly recovered candidates that the search may evaluate.
        wall_seconds: Seconds spent by all calls so far.
        front: (id, values) of the non-dominated search candidates.
        members: Models of the written front.
        stage: What it did last: proxy, search, controls, finalists; empty before the first candidate.
        stopped: Candidates that were stopped at a rung.
        controls: Complete candidates of the controls.
        rank_correlation: Kendall's of the predictor on the search's candidates; None before there is one.
        picks: `most_accurate`, `balanced`, `fastest` -> id of a member of `front`.
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
    stage: str = ""
    stopped: int = 0
    controls: int = 0
    rank_correlation: float | None = None
    picks: Mapping[str, str] = field(default_factory=dict)

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
    objectives = recorded_objectives(directory, records)
    search = Tally(objectives)
    for record in records if objectives else ():
        if record.number > 0 and stage_of(record) == "search":
            search.add(record)
    owner = running_owner(path)
    front = path / FRONT_FILE
    members = len(read_front(front).members) if front.is_file() else 0
    return RunStatus(
        name=config.name,
        state="running" if owner else ("finished" if members else "stopped"),
        owner=owner._asdict() if owner else None,
        evaluations=dict(Counter(r.fidelity for r in records if r.state == "complete" and not r.is_control)),
        failed=dict(Counter((r.failure or {}).get("reason", "unknown") for r in records if r.state == "failed")),
        total=config.search.budget.evaluations,
        wall_seconds=total_times(path / EVENTS_FILE)[0],
        front=tuple((r.id, r.values) for r in search.front),
        members=members,
        stage=_stage(records),
        stopped=search.stopped,
        controls=sum(r.is_control and r.state == "complete" for r in records),
        rank_correlation=search.rank_correlation,
        picks=search.picks(),
    )


def recorded_objectives(directory: RunDirectory, records: Sequence[CandidateRecord]) -> list[Objective]:
    """Return what the run optimises; nothing where the file that tells it was altered, as its records show."""
    try:
        found = [Objective(**o) for o in directory.about().get("objectives", [])]
        minimised(found, [r.values for r in records if r.state == "complete"])
    except (TypeError, LookupError, ValueError):
        return []
    return found


def _stage(records: Sequence[CandidateRecord]) -> str:
    """Return the furthest stage that a candidate has been finished in."""
    reached = {stage_of(r) for r in records if r.number > 0}
    return next((stage for stage in ("finalists", "controls", "search", "proxy") if stage in reached), "")


def running_owner(path: Path) -> Owner | None:
    """Return who holds the run's lock at this moment; None where nobody does."""
    return owner_of(path)
