"""Who executes: one contract for every engine. A job goes in, a record that is already on disk comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from autoprune.policy import Policy
from autoprune.records import CandidateRecord, Fidelity, candidate_id


@dataclass(frozen=True)
class Job:
    """One candidate to evaluate.

    Args:
        number: Its place in the order of proposals.
        policy: What to prune.
        fidelity: How much recovery it gets.
        proposal: The sampler's parameters, distributions and system attributes, as JSON.
    """

    number: int
    policy: Policy
    fidelity: Fidelity
    proposal: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Directory name of its record: equal policies at equal fidelity are one candidate."""
        return candidate_id(self.policy.digest, self.fidelity)


class Executor(Protocol):
    """Evaluates jobs; every submitted job comes back once, as a complete or a failed record."""

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
