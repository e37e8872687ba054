"""Numbers -> objectives: what a run minimises or maximises, and what it demands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from autoprune.config.model import RunConfig
from autoprune.errors import CandidateError, ConfigError
from autoprune.evaluation.quality import LARGEST
from autoprune.evaluation.types import Evaluation
from autoprune.registry import nearest
from autoprune.requirements import Requirement, parse_requirement
from autoprune.tasks import signal_of
from autoprune.tasks.protocol import MetricSpec, Task

COSTS: Mapping[str, tuple[str, Literal["linear", "log"]]] = {
    "latency_ms": ("ms", "log"),
    "parameters": ("count", "log"),
    "nonzero": ("count", "log"),
    "macs": ("count", "log"),
    "bytes": ("bytes", "log"),
    "compressed_bytes": ("bytes", "log"),
}


@dataclass(frozen=True)
class Objective:
    """One thing a run optimises.

    Args:
        name: A task metric or one of `COSTS`.
        direction: Which way is better.
        unit: Unit of its values.
        scale: Scale on which differences count.
        target: The latency target, for `latency_ms`.
    """

    name: str
    direction: Literal["min", "max"]
    unit: str
    scale: Literal["linear", "log"] = "linear"
    target: str | None = None

    @property
    def sign(self) -> float:
        """Factor that makes the objective one to minimise."""
        return -1.0 if self.direction == "max" else 1.0


def objectives_of(config: RunConfig, task: Task) -> tuple[Objective, ...]:
    """Return the run's objectives.

    Raises:
        ConfigError: A name is neither a metric of the task nor a cost, or the first is no metric.
    """
    metrics = {m.name: m for m in task.metrics}
    out = []
    for index, name in enumerate(config.objectives):
        if name in metrics:
            out.append(Objective(name, metrics[name].direction, "fraction" if _is_fraction(metrics[name]) else "value"))
        elif index > 0 and name in COSTS:
            unit, scale = COSTS[name]
            out.append(Objective(name, "min", unit, scale, config.latency.targets[0] if name == "latency_ms" else None))
        else:
            raise _unknown_objective(index, name, list(metrics))
    return tuple(out)


def values_of(objectives: Sequence[Objective], evaluation: Evaluation, dense_ms: float | None) -> dict[str, float]:
    """Return objective -> value of one evaluation, in the user's orientation.

    Latency is the run's fixed dense latency divided by the measured speed-up: candidates are timed at different
    moments of a noisy machine, and the interleaved ratio is what stays comparable.

    Raises:
        CandidateError: A value is not finite, a cost that is an objective is not positive, or anything else that was
            measured, objective or not, is beyond what can be.
    """
    _refuse_impossible(evaluation)
    out: dict[str, float] = {}
    for objective in objectives:
        if objective.target is not None:
            latency = evaluation.latency[objective.target]
            value = latency.ms if dense_ms is None else dense_ms / latency.speedup
        elif objective.name in COSTS:
            value = float(getattr(evaluation.cost, objective.name))
        else:
            value = evaluation.quality["val"][objective.name].value
        if not math.isfinite(value) or (objective.name in COSTS and value <= 0.0):
            raise _impossible(objective.name, value, "quality")
        out[objective.name] = value
    return out


def _refuse_impossible(evaluation: Evaluation) -> None:
    for name, value in asdict(evaluation.cost).items():
        if not 0.0 <= value <= LARGEST:
            raise _impossible(name, value, "quality")
    for target, latency in evaluation.latency.items():
        for name, value in (("latency", latency.ms), ("speed-up", latency.speedup)):
            if not 0.0 < value <= LARGEST:
                raise _impossible(f"{name} on {target}", value, "latency")


def _impossible(name: str, value: float, stage: str) -> CandidateError:
    return CandidateError(f"{name} is {value}, which cannot be.", reason="nonfinite", stage=stage)


def error_like(task: Task, metrics: Mapping[str, float]) -> float:
    """Return one value of a task's metrics that is lower for a better model: its signal, or else its first metric."""
    signal = signal_of(task)
    if signal is not None:
        return metrics[signal]
    first = task.metrics[0]
    return metrics[first.name] if first.direction == "min" else -metrics[first.name]


def minimised(objectives: Sequence[Objective], values: Sequence[Mapping[str, float]]) -> npt.NDArray[np.float64]:
    """Return [n, k] values with every objective turned to be minimised; logarithmic ones as logarithms."""
    rows = [[o.sign * (math.log(v[o.name]) if o.scale == "log" else v[o.name]) for o in objectives] for v in values]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(objectives))


@dataclass(frozen=True)
class Constraints:
    """What a model must satisfy.

    Args:
        max_latency_ms: Highest latency on the first target.
        require: Requirements on metrics.
        max_drop: Largest loss of the first metric against the dense model, in the metric's own unit.
        metric: The first metric.
        dense: Its value on the dense model.
        target: The latency target that is limited.
        max_parameters: Most parameters.
        max_bytes: Most bytes of all parameters and buffers.
    """

    max_latency_ms: float | None
    require: tuple[Requirement, ...]
    max_drop: float | None
    metric: MetricSpec
    dense: float
    target: str
    max_parameters: int | None = None
    max_bytes: int | None = None

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """Every bound on one value: those on latency and size, then those of `require`."""
        limits = {"latency_ms": self.max_latency_ms, "parameters": self.max_parameters, "bytes": self.max_bytes}
        bounds = [Requirement(name, "<=", float(limit)) for name, limit in limits.items() if limit is not None]
        return (*bounds, *self.require)

    @property
    def bounds(self) -> dict[str, Requirement]:
        """Expression -> bound on one value; the largest drop is one on the first metric."""
        bounds = {requirement.text: requirement for requirement in self.requirements}
        if self.max_drop is not None:
            best_high = self.metric.direction == "max"
            worst = self.dense - self.max_drop if best_high else self.dense + self.max_drop
            bound = Requirement(self.metric.name, ">=" if best_high else "<=", worst)
            bounds[f"drop({self.metric.name})<={self.max_drop:g}"] = bound
        return bounds

    def violations(self, figures: Mapping[str, float], latency_ms: float) -> dict[str, float]:
        """Return expression -> by how much it is violated; <= 0 where it holds.

        Args:
            figures: Metrics on val and costs, by name.
            latency_ms: Latency on the first target.
        """
        values = {**figures, "latency_ms": latency_ms}
        return {expression: bound.violation(values) for expression, bound in self.bounds.items()}


def constraints_of(config: RunConfig, task: Task, dense: float) -> Constraints:
    """Return the run's constraints, given the dense model's value of the first metric.

    Raises:
        ConfigError: A requirement cannot be read, or names neither a metric of the task nor a cost.
    """
    known = [*(m.name for m in task.metrics), *COSTS]
    require = tuple(parse_requirement(text) for text in config.constraints.require)
    for requirement in require:
        if requirement.metric not in known:
            raise ConfigError(
                f"constraints.require: {requirement.text!r} names no metric of the task and no cost.",
                hint=f"Known: {', '.join(known)}.",
            )
    limits = config.constraints
    target = config.latency.targets[0]
    return Constraints(
        limits.max_latency_ms,
        require,
        limits.max_drop,
        task.metrics[0],
        dense,
        target,
        limits.max_parameters,
        limits.max_bytes,
    )


def _is_fraction(metric: MetricSpec) -> bool:
    return metric.bounds == (0.0, 1.0)


def _unknown_objective(index: int, name: str, metrics: list[str]) -> ConfigError:
    allowed = metrics if index == 0 else [*metrics, *COSTS]
    close = nearest(name, allowed, count=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    where = "the first objective must be a metric of the task" if index == 0 else "no such metric or cost"
    return ConfigError(f"objectives[{index}]: {name!r}: {where}.{guess}", hint=f"Allowed: {', '.join(allowed)}.")
