"""Who executes: one contract for every engine. A job goes in, a record that is already on disk comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from autoprune.policy import Policy
from autoprune.records import CandidateRecord, Fidelity, candidate_id
from autoprune.search.rungs import Rungs

Stage = Literal["all", "train", "measure"]


@dataclass(frozen=True)
class Job:
    """One candidate to evaluate.

    Args:
        number: Its place in the order of proposals.
        policy: What to prune.
        fidelity: How much recovery it gets.
        proposal: The sampler's parameters, distributions and system attributes, as JSON.
        origin: Who proposed it.
        predicted: Objective -> what the predictor expects of it.
        repeat: Number of the recovery seed, from 0.
        rungs: When to look at it while it trains, and what others showed there; None = never.
        stage: Which half of it to do: `train` leaves an unfinished candidate with everything but latency, `measure`
            times that on another worker and finishes it.
    """

    number: int
    policy: Policy
    fidelity: Fidelity
    proposal: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    predicted: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 0
    rungs: Rungs | None = None
    stage: Stage = "all"

    @property
    def id(self) -> str:
        """Directory name of its record: equal policies at equal fidelity and seed are one candidate."""
        return candidate_id(self.policy.digest, self.fidelity, self.repeat)


class Executor(Protocol):
    """Evaluates jobs; every submitted job comes back once, as a complete, a stopped or a failed record."""

    @property
    def free(self) -> int:
        """Number of jobs that would start at once."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job."""
        ...

    def collect(self) -> list[CandidateRecord]:
        """Return the records finished since the last call, waiting for at least one while any job is under way."""
        ...

    def close(self) -> None:
        """Stop the workers; jobs under way are abandoned."""
        ...
