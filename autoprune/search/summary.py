"""Front -> what is said of it: named picks, hypervolume, warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from autoprune.evaluation.types import Evaluation
from autoprune.pareto import hypervolume, knee
from autoprune.report.document import Hypervolume, Warned
from autoprune.search.measured import Measured
from autoprune.search.objectives import COSTS, Objective, minimised
from autoprune.tasks.protocol import MetricSpec

PickName = Literal["most_accurate", "balanced", "fastest", "smallest"]
COST_RANGE = 100.0
WORST_ERROR = 0.5
ERROR_FACTOR = 5.0
OVERHEAD_MACS = 2.0
OVERHEAD_SHARE = 0.5

Values = Mapping[str, float]


def picks_of(
    objectives: Sequence[Objective], ids: Sequence[str], values: Sequence[Values], parameters: Sequence[int]
) -> dict[PickName, str]:
    """Return the named picks: most accurate, balanced (the knee), fastest, smallest; chosen on val."""
    if not ids:
        return {}
    rows = minimised(objectives, values)
    return {
        "most_accurate": ids[int(np.argmin(rows[:, 0]))],
        "balanced": ids[knee(rows)],
        "fastest": ids[int(np.argmin(rows[:, -1]))],
        "smallest": ids[int(np.argmin(parameters))],
    }


def hypervolume_of(
    objectives: Sequence[Objective], metrics: Sequence[MetricSpec], values: Sequence[Values], dense: Values
) -> Hypervolume:
    """Return the front's hypervolume on val in normalised objectives, the reference corner at 1 each.

    A cost counts from a hundredth of the dense model's to the dense model's own, on a logarithmic axis; a metric from
    its best value to max(0.5, 5 x the dense model's error) away from it, or where it has no bounds, half the dense
    value away from the dense value on either side.
    """
    specs = {m.name: m for m in metrics}
    ranges = {o.name: _range(o, specs.get(o.name), dense[o.name]) for o in objectives}
    rows = [[_scaled(o, v[o.name], ranges[o.name]) for o in objectives] for v in values]
    corner = [1.0] * len(objectives)
    points = np.asarray(rows, dtype=np.float64).reshape(len(rows), len(objectives))
    return Hypervolume(value=hypervolume(points, corner), reference=tuple(corner), normalisation=ranges)


def warnings_of(measured: Measured, dense: Evaluation, target: str) -> tuple[Warned, ...]:
    """Return what a user should know before taking a member."""
    found, latency = [], measured.evaluation.latency[target]
    macs_ratio = dense.cost.macs / max(measured.evaluation.cost.macs, 1)
    if not latency.clean:
        text = f"{latency.polluted_share:.0%} of the latency samples met foreign load; measure again on a quiet host."
        found.append(Warned(code="noisy_latency", text=text))
    if latency.speedup < 1.0 and macs_ratio > 1.0:
        text = f"{macs_ratio:.1f}x fewer MACs, but not faster than the dense model on {target}."
        found.append(Warned(code="not_faster", text=text))
    elif macs_ratio > OVERHEAD_MACS and latency.speedup < OVERHEAD_SHARE * macs_ratio:
        text = f"{macs_ratio:.1f}x fewer MACs give {latency.speedup:.1f}x on {target}: overhead bounds this target."
        found.append(Warned(code="overhead_bound", text=text))
    return tuple(found)


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
    return best, best + away * reach


def _scaled(objective: Objective, value: float, ends: tuple[float, float]) -> float:
    best, worst = ends
    if objective.scale == "log":
        value, best, worst = math.log(value), math.log(best), math.log(worst)
    return max(0.0, (value - best) / (worst - best))
