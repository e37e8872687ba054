"""A user's own Ray Tune `Tuner` -> policies proposed by this search, and evaluated as this search evaluates them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from autoprune.config import RunConfig
from autoprune.errors import StorageError
from autoprune.integrations.problem import PruningProblem
from autoprune.integrations.tune_results import job_from_json, job_to_json, record_of
from autoprune.integrations.tune_scheduler import FrontScheduler
from autoprune.integrations.tune_trainable import (
    PROPOSAL,
    Proposal,
    PruningTrainable,
    checked_fidelities,
    nested,
    pruning_trainable,
)
from autoprune.records import CandidateRecord, Fidelity
from autoprune.search import loop
from autoprune.search.executors.base import Job
from autoprune.search.setup import blank_record, failure_of
from autoprune.storage import parse_json

__all__ = ["FrontScheduler", "PruningProblem", "PruningSearcher", "PruningTrainable", "pruning_trainable"]

STATE_VERSION = 1


class PruningSearcher(Searcher):
    """Proposes pruning policies to a Tuner by the configured sampler, and learns from what their trials report.

    A trial that ends with its last fidelity is complete, one that a scheduler stopped before is pruned, and one that
    broke, or whose objectives are not finite, has failed; none stays open. Constraints of the configuration are told
    from the metrics and costs in the results.

    Args:
        problem: The problem, or the configuration that it is made from.
        fidelities: Of `proxy`, `short` and `full` those that each trial goes through, ascending.
        overrides: `dotted.path=value` as on the command line, for a path.

    Raises:
        AutopruneError: See `PruningProblem`.
    """

    def __init__(
        self,
        problem: PruningProblem | str | Path | RunConfig,
        *,
        fidelities: Sequence[Fidelity] = ("short",),
        overrides: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not isinstance(problem, PruningProblem):
            problem = PruningProblem(problem, overrides=overrides)
        self.problem = problem
        self.fidelities = checked_fidelities(fidelities)
        self._open: dict[str, Job] = {}
        self._adopted: set[str] = set()
        self._records = self.problem.records(self.fidelities[-1])
        self._next = self.problem.first_number
        self._proposals = self._fresh()

    def trainable(self, *, raises: bool = False) -> type[tune.Trainable]:
        """Return the trainable that evaluates what is proposed here; see `pruning_trainable`."""
        return pruning_trainable(self.problem, self.fidelities, raises=raises)

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of a trial, or `FINISHED` when the sampler sees no use in going on."""
        job = self._proposals.propose()
        if job is None:
            return self.FINISHED
        self._open[trial_id] = job
        self._next = job.number + 1
        proposal = Proposal(job.number, job.origin, job.predicted, job.proposal)
        return {**nested(job.proposal["params"]), PROPOSAL: proposal}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Learn from a trial that has ended."""
        job = self._open.pop(trial_id, None)
        if job is None:
            return
        setup, context = self.problem.setup, self.problem.phase.context
        blank = blank_record(setup, job)
        record = (
            replace(blank, failure=failure_of("error", "tune", "The trial ended without a result."))
            if error or result is None
            else record_of(blank, result, context.objectives, context.constraints)
        )
        self._records.append(record)
        if trial_id in self._adopted:
            self._proposals.adopt(record)
        else:
            self._proposals.learn(record)

    def save(self, checkpoint_path: str) -> None:
        """Write what was learnt and what is under way, as JSON."""
        Path(checkpoint_path).write_text(json.dumps(self._state()), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Go on from what `save` has written.

        Raises:
            StorageError: The file is no state of this version.
        """
        self._load(parse_json(Path(checkpoint_path).read_bytes()))

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled with a Tuner: the study is made anew from the records."""
        return {"problem": self.problem, "fidelities": self.fidelities, "state": self._state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled searcher."""
        Searcher.__init__(self)
        self.problem, self.fidelities = state["problem"], state["fidelities"]
        self._load(state["state"])

    def _fresh(self) -> Proposals:
        return Proposals(self.problem.phase, self._records, first=self._next)

    def _state(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "next": self._next,
            "records": [record.to_json() for record in self._records],
            "open": {trial: job_to_json(job) for trial, job in self._open.items()},
        }

    def _load(self, state: Any) -> None:
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            raise StorageError(f"This is no state of a PruningSearcher of version {STATE_VERSION}.")
        try:
            records = [CandidateRecord.from_json(document) for document in state["records"]]
            opened = {str(trial): job_from_json(document) for trial, document in state["open"].items()}
            following = int(state["next"])
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"This is no state of a PruningSearcher: {error}.") from error
        self._records, self._open, self._next = records, opened, following
        self._adopted = set(opened)
        self._proposals = self._fresh()


class Proposals(loop.Searcher):
    """The search's own proposals, which also learn from candidates that were proposed before a restart."""

    def adopt(self, record: CandidateRecord) -> None:
        """Take the record of a candidate that this object did not propose."""
        self._known[record.digest] = record
        self._study.add_trial(loop.seen_trial(self.phase.context, record, self.phase.signal))
