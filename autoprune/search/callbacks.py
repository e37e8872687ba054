"""Who watches: the protocol by which a run tells what happens, and the figures it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from autoprune.records import CandidateRecord
from autoprune.report.document import FrontDocument

Stage = Literal["proxy", "search", "controls", "finalists", "front"]


@dataclass(frozen=True)
class RunInfo:
    """What a run is about to do.

    Args:
        name: Run name.
        directory: Where it writes.
        objectives: Objective name -> direction, `min` or `max`.
        evaluations: Briefly recovered candidates that the search may evaluate.
        resumed: Such candidates that an earlier call has finished.
        baseline: The dense model's value of each objective.
        warnings: What a user should know before the time is spent.
        proxy_evaluations: Untrained candidates that may be evaluated before them.
        sampler: Who proposes.
    """

    name: str
    directory: str
    objectives: Mapping[str, str]
    evaluations: int
    resumed: int
    baseline: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    proxy_evaluations: int = 0
    sampler: str = ""


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
        stage: What it is doing.
        done: Candidates finished in this stage, failed and stopped ones included.
        total: Candidates of this stage.
        failed: Candidates failed in this stage.
        elapsed_s: Seconds since this call started.
        remaining_s: Estimated seconds to the end of this stage; None before there is a rate.
        front: (id, objective -> value) of the non-dominated candidates of this stage so far.
        stopped: Candidates of this stage that were stopped at a rung.
        rank_correlation: Kendall's of the predictor on candidates of this stage; None before there is one.
        picks: `most_accurate`, `balanced`, `fastest` -> id of a member of `front`.
    """

    stage: Stage
    done: int
    total: int
    failed: int
    elapsed_s: float
    remaining_s: float | None
    front: tuple[tuple[str, Mapping[str, float]], ...] = field(default_factory=tuple)
    stopped: int = 0
    rank_correlation: float | None = None
    picks: Mapping[str, str] = field(default_factory=dict)


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
