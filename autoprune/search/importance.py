"""Records -> importance: which groups' sparsity and which choices decide the quality at a given cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.records import CandidateRecord
from autoprune.report.document import Importance
from autoprune.search.objectives import Objective
from autoprune.search.summary import FIDELITIES
from autoprune.tasks.protocol import MetricSpec

LEAST_RECORDS = 20
TREES = 100
LEAF = 2
REPEATS = 5
MOST_ROWS = 300
_CLIP = 0.004
_COST = "cost"
_GROUP = "group/"

Floats = npt.NDArray[np.float64]


def importance_of(
    records: Sequence[CandidateRecord], objective: Objective, metric: MetricSpec | None, seed: int
) -> Importance | None:
    """Return the shares of groups and of strategy choices, which sum to 1; None with fewer than 20 records.

    Extra trees learn the quality of the complete records of the fidelity that has most of them, from the groups'
    sparsities, the choices and the logarithm of the MACs. A feature's importance is by how much R2 falls when its
    column is permuted (Breiman, 2001); the MACs keep theirs, so that what counts is the quality at a given cost.
    Shares of choices made for each group are added up. Correlated features share their importance.

    Args:
        records: Of the run, controls included.
        objective: The quality, the run's first objective.
        metric: Its specification; a fraction is learnt as its logit, in which differences near 1 count too.
        seed: Of trees and permutations.
    """
    found = _most(records)
    features, quality = _features(found), _quality(found, objective, metric)
    if len(found) < LEAST_RECORDS or len(features) < 2 or np.ptp(quality) == 0.0:
        return None
    falls = _permuted(features, quality, seed)
    total = sum(falls.values())
    if total <= 0.0:
        return None
    groups = {n.removeprefix(_GROUP): fall / total for n, fall in falls.items() if n.startswith(_GROUP)}
    choices: dict[str, float] = {}
    for name, fall in falls.items():
        if not name.startswith(_GROUP):
            axis = name.partition("/")[0]
            choices[axis] = choices.get(axis, 0.0) + fall / total
    return Importance(groups=groups, choices=choices, method=_method(found, objective))


def _most(records: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    """Return the complete, pruned records of the fidelity with most of them; of equal numbers the dearer one."""
    pruned = [r for r in records if r.state == "complete" and (r.policy["sparsity"] or r.policy.get("amount"))]
    counts = Counter(r.fidelity for r in pruned)
    best = max(FIDELITIES, key=lambda f: (counts[f], FIDELITIES.index(f)))
    return [r for r in pruned if r.fidelity == best]


def _features(records: Sequence[CandidateRecord]) -> dict[str, Floats]:
    """Return name -> [n] values of every feature that varies; choices as the rank of their name."""
    rows = [_described(r) for r in records]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name, 0.0) for row in rows] for name in names}
    coded = {name: _codes(column) for name, column in columns.items()}
    return {name: column for name, column in coded.items() if np.ptp(column) > 0.0}


def _described(record: CandidateRecord) -> dict[str, Any]:
    policy: Mapping[str, Any] = record.policy
    row: dict[str, Any] = {_GROUP + name: share for name, share in policy["sparsity"].items()}
    row |= {f"{axis}/{name}": made[axis] for name, made in policy["overrides"].items() for axis in made}
    row |= {name: value for name, value in policy["strategy"].items() if value is not None}
    if policy.get("amount") is not None:
        row["amount"] = policy["amount"]["value"]
    evaluation = record.evaluation or {}
    return row | {_COST: float(np.log(max(evaluation["cost"]["macs"], 1)))}


def _codes(column: Sequence[Any]) -> Floats:
    if not any(isinstance(value, str) for value in column):
        return np.asarray(column, dtype=np.float64)
    return np.unique([str(value) for value in column], return_inverse=True)[1].astype(np.float64)


def _quality(records: Sequence[CandidateRecord], objective: Objective, metric: MetricSpec | None) -> Floats:
    values = np.array([r.values[objective.name] for r in records])
    if metric is None or metric.bounds != (0.0, 1.0):
        return values
    share = np.clip(values, _CLIP, 1.0 - _CLIP)
    return np.asarray(np.log(share / (1.0 - share)))


def _permuted(features: Mapping[str, Floats], quality: Floats, seed: int) -> dict[str, float]:
    """Return feature -> mean fall of R2 when it is permuted, at least 0; the cost is held."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.inspection import permutation_importance

    table = np.stack(list(features.values()), axis=1)
    model = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, random_state=seed).fit(table, quality)
    rows = min(len(table), MOST_ROWS)
    result = permutation_importance(model, table, quality, n_repeats=REPEATS, random_state=seed, max_samples=rows)
    falls = dict(zip(features, map(float, result.importances_mean), strict=True))
    return {name: max(0.0, fall) for name, fall in falls.items() if name != _COST}


def _method(records: Sequence[CandidateRecord], objective: Objective) -> str:
    return (
        f"permutation importance of extra trees for {objective.name} at given MACs, "
        f"{len(records)} {records[0].fidelity} candidates"
    )
