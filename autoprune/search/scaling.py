"""Values -> the unit box in which hypervolume is measured: 0 the best that counts, 1 the worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from autoprune.search.objectives import COSTS, Objective
from autoprune.tasks.protocol import MetricSpec

COST_RANGE = 100.0
WORST_ERROR = 0.5
ERROR_FACTOR = 5.0
LEAST = 1e-300

Floats = npt.NDArray[np.float64]
Values = Mapping[str, float]
Ranges = Mapping[str, tuple[float, float]]


def ranges_of(objectives: Sequence[Objective], metrics: Sequence[MetricSpec], dense: Values) -> Ranges:
    """Return objective -> the (best, worst) values that become 0 and 1, as `hypervolume_of` tells."""
    specs = {m.name: m for m in metrics}
    return {o.name: _range(o, specs.get(o.name), dense[o.name]) for o in objectives}


def table_of(objectives: Sequence[Objective], values: Sequence[Values]) -> Floats:
    """Return [n, k] values in the users' orientation, a column an objective."""
    rows = [[v[o.name] for o in objectives] for v in values]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(objectives))


def scaled(objectives: Sequence[Objective], ranges: Ranges, table: Floats) -> Floats:
    """Return [..., k] values normalised and minimised: 0 where they are best or better, 1 where worst, more beyond."""
    columns = []
    for index, objective in enumerate(objectives):
        column, (best, worst) = table[..., index], ranges[objective.name]
        if objective.scale == "log":
            column, best, worst = np.log(np.maximum(column, LEAST)), math.log(best), math.log(worst)
        columns.append(np.maximum(0.0, (column - best) / (worst - best)))
    return np.stack(columns, axis=-1)


def _range(objective: Objective, spec: MetricSpec | None, dense: float) -> tuple[float, float]:
    """Return the (best, worst) values of an objective that become 0 and 1."""
    if objective.name in COSTS or spec is None:
        return dense / COST_RANGE, dense
    best = spec.bounds[1] if objective.direction == "max" else spec.bounds[0]
    away = -1.0 if objective.direction == "max" else 1.0
    if not math.isfinite(best):
        half = abs(dense) / 2 or 1.0
        return dense - away * half, dense + away * half
    span = abs(spec.bounds[1] - spec.bounds[0])
    reach = max(ERROR_FACTOR * abs(best - dense), WORST_ERROR * span if math.isfinite(span) else abs(dense))
    return best, best + away * (reach or 1.0)
