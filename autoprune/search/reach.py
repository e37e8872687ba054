"""Constraints -> refused before any time is spent, where no policy of the space meets them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.errors import ConfigError
from autoprune.evaluation import measure_cost
from autoprune.evaluation.types import Cost, Latency
from autoprune.requirements import Requirement
from autoprune.search.objectives import Constraints
from autoprune.search.workbench import Workbench

SIZES = ("parameters", "nonzero", "macs", "bytes")


@dataclass(frozen=True)
class Range:
    """What a value can be.

    Args:
        low: Least value that any policy of the space gives.
        high: Largest.
        why: Where these come from, for messages.
    """

    low: float
    high: float
    why: str

    def allows(self, requirement: Requirement) -> bool:
        """Tell whether a requirement can be met."""
        if requirement.relation == "<=":
            return self.low <= requirement.bound
        return requirement.bound <= self.high


@dataclass(frozen=True)
class Floor:
    """The smallest model of a space: every group at its least width, not trained.

    Args:
        latency: Target -> latency, with that of the dense model in the same rounds.
        cost: Its size.
        dense: Size of the dense model.
    """

    latency: Mapping[str, Latency]
    cost: Cost
    dense: Cost


def measure_floor(bench: Workbench, *, latency: bool = True) -> Floor:
    """Measure the smallest model of the space: its size, and on request its latency on every target."""
    smallest = bench.pruner.cut(bench.space.smallest()).model
    rounds = bench.config.latency.rounds
    targets = bench.targets if latency else ()
    times = {t.name: bench.time(bench.deploy(smallest, t), t, seed=0, rounds=rounds) for t in targets}
    return Floor(times, measure_cost(smallest, bench.example), measure_cost(bench.model, bench.example))


def refuse_unreachable(bench: Workbench, constraints: Constraints, floor: Floor | None = None) -> None:
    """Refuse limits on latency and size below the smallest model, and on metrics beyond their bounds.

    Args:
        bench: The driver's workbench.
        constraints: What is demanded.
        floor: The smallest model, when it has been measured already.

    Raises:
        ConfigError: One or more cannot be met; the message names the reachable range of each.
    """
    demands = constraints.requirements
    if not demands:
        return
    timed = any(d.metric == "latency_ms" for d in demands)
    ranges = _ranges(bench, floor or measure_floor(bench, latency=timed))
    problems = [
        f"{d.text} cannot be reached: {ranges[d.metric].why}."
        for d in demands
        if d.metric in ranges and not ranges[d.metric].allows(d)
    ]
    if problems:
        raise ConfigError(
            f"constraints: {' '.join(problems)}",
            hint="Relax the constraint, or let the space remove more (sparsity.max).",
            problems=[f"constraints: {problem}" for problem in problems],
        )


def _ranges(bench: Workbench, floor: Floor) -> dict[str, Range]:
    found = {}
    for metric in bench.task.metrics:
        low, high = metric.bounds
        found[metric.name] = Range(low, high, f"{metric.name} lies between {low:g} and {high:g}")
    for name in SIZES:
        least, most = getattr(floor.cost, name), getattr(floor.dense, name)
        why = f"{name} range from {least:,} with every group at its least width to {most:,} of the dense model"
        found[name] = Range(float(least), float(most), why)
    target = bench.targets[0].name
    if target in floor.latency:
        latency = floor.latency[target]
        why = (
            f"on {target} the model takes {latency.ms:.4g} ms with every group at its least width, dense "
            f"{latency.dense_ms:.4g} ms"
        )
        found["latency_ms"] = Range(latency.low, math.inf, why)
    return found
