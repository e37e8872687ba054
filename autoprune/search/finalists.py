"""Search records -> finalists: which candidates deserve full recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.pareto import non_dominated, spread
from autoprune.records import CandidateRecord
from autoprune.search.loop import violations_of
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


def front_so_far(
    records: Sequence[CandidateRecord], objectives: Sequence[Objective]
) -> tuple[tuple[str, Mapping[str, float]], ...]:
    """Return (id, values) of the non-dominated complete records, by the last objective."""
    complete = [r for r in records if r.state == "complete"]
    mask = non_dominated(minimised(objectives, [r.values for r in complete]))
    front = [r for r, on in zip(complete, mask, strict=True) if on]
    return tuple((r.id, r.values) for r in sorted(front, key=lambda r: r.values[objectives[-1].name]))
