"""Who watches: the protocol by which a run tells what happens, and the figures it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from autoprune.records import CandidateRecord
from autoprune.report.document import FrontDocument

Stage = Literal["search", "finalists", "front"]


@dataclass(frozen=True)
class RunInfo:
    """What a run is about to do.

    Args:
        name: Run name.
        directory: Where it writes.
        objectives: Objective name -> direction, `min` or `max`.
        evaluations: Candidates that the search may evaluate.
        resumed: Candidates that an earlier call has finished.
        baseline: The dense model's value of each objective.
        warnings: What a user should know before the time is spent.
    """

    name: str
    directory: str
    objectives: Mapping[str, str]
    evaluations: int
    resumed: int
    baseline: Mapping[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
        stage: What it is doing.
        done: Candidates finished in this stage, failures included.
        total: Candidates of this stage.
        failed: Candidates failed in this stage.
        elapsed_s: Seconds since this call started.
        remaining_s: Estimated seconds to the end of this stage; None before there is a rate.
        front: (id, objective -> value) of the non-dominated candidates so far.
    """

    stage: Stage
    done: int
    total: int
    failed: int
    elapsed_s: float
    remaining_s: float | None
    front: tuple[tuple[str, Mapping[str, float]], ...] = field(default_factory=tuple)


class Callback(Protocol):
    """Told by a run, in the driver's process; exceptions it raises end the run."""

    def on_search_start(self, info: RunInfo) -> None:
        """Called once, when the dense model is measured."""
        ...

    def on_candidate_end(self, record: CandidateRecord, progress: Progress) -> None:
        """Called after each candidate's record is on disk."""
        ...

    def on_front_update(self, progress: Progress) -> None:
        """Called when the front so far changes."""
        ...

    def on_search_end(self, front: FrontDocument) -> None:
        """Called once, when the front is written."""
        ...


class SilentCallback:
    """A callback that does nothing; derive from it to override one method."""

    def on_search_start(self, info: RunInfo) -> None:
        """Do nothing."""

    def on_candidate_end(self, record: CandidateRecord, progress: Progress) -> None:
        """Do nothing."""

    def on_front_update(self, progress: Progress) -> None:
        """Do nothing."""

    def on_search_end(self, front: FrontDocument) -> None:
        """Do nothing."""
