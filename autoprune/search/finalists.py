"""Search records -> finalists: which candidates deserve full recovery, and which recovery stands for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from autoprune.pareto import non_dominated, spread
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.search.loop import policy_of, violations_of
from autoprune.search.objectives import Constraints, Objective, minimised


def choose_finalists(
    records: Sequence[CandidateRecord], objectives: Sequence[Objective], constraints: Constraints, count: int
) -> list[CandidateRecord]:
    """Return up to `count` complete records, front by front, each front spread over the last objective.

    Feasible candidates come first; a briefly recovered candidate ranks only among its like.
    """
    complete = [r for r in records if r.state == "complete"]
    feasible = [r for r in complete if is_feasible(constraints, r)]
    left, chosen = feasible or complete, list[CandidateRecord]()
    while left and len(chosen) < count:
        values = minimised(objectives, [r.values for r in left])
        front = np.flatnonzero(non_dominated(values))
        picked = [int(front[i]) for i in spread(values[front], count - len(chosen))]
        chosen += [left[i] for i in picked]
        members = set(front.tolist())
        left = [r for i, r in enumerate(left) if i not in members]
    return chosen


def is_feasible(constraints: Constraints, record: CandidateRecord) -> bool:
    """Tell whether a complete record satisfies every constraint."""
    return all(v <= 0.0 for v in violations_of(constraints, record).values())


def finalist_jobs(chosen: Sequence[CandidateRecord], seeds: int) -> list[Job]:
    """Return the full recoveries of the chosen candidates: each with its first seed before any with its second."""
    return [
        Job(r.number, policy_of(r), "full", r.proposal, origin="finalist", predicted=r.predicted, repeat=repeat)
        for repeat in range(seeds)
        for r in chosen
    ]


def recoveries(records: Iterable[CandidateRecord]) -> dict[str, list[CandidateRecord]]:
    """Return policy digest -> its complete full recoveries, by seed number; no dense model, no control."""
    found: dict[str, list[CandidateRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda r: (r.number, r.repeat)):
        if record.fidelity == "full" and record.state == "complete" and record.number > 0 and not record.is_control:
            found[record.digest].append(record)
    return dict(found)


def median_recovery(repeats: Sequence[CandidateRecord], objective: Objective) -> CandidateRecord:
    """Return the recovery of median quality; of an even number the worse of the two in the middle."""
    ranked = sorted(repeats, key=lambda r: objective.sign * r.values[objective.name])
    return ranked[len(ranked) // 2]
