"""What a sampler is told of the run that it proposes for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from autoprune.predictor.cost import CostModel
from autoprune.records import Fidelity
from autoprune.requirements import Requirement
from autoprune.search.objectives import Constraints, Objective
from autoprune.space import BoundSpace
from autoprune.tasks.protocol import MetricSpec

SIGNAL = "signal"


@dataclass(frozen=True)
class SamplerContext:
    """One phase of one run, as a sampler sees it.

    Args:
        space: What may be chosen; in the proxy phase `BoundSpace.for_proxy()`.
        seed: Seed of the phase.
        evaluations: Candidates that the phase may evaluate.
        objectives: What is optimised, in the study's order.
        metrics: The task's metrics.
        constraints: What is demanded; None where nothing is.
        costs: Parameters and MACs of any widths.
        dense: Objective, metric or cost -> value of the dense model, and `signal`, where they are known.
        workers: Candidates evaluated at the same time.
        fidelity: How much training the phase's candidates get.
        prior: Finished trials of the phase before, at lower fidelity.
    """

    space: BoundSpace
    seed: int
    evaluations: int
    objectives: tuple[Objective, ...]
    metrics: tuple[MetricSpec, ...]
    constraints: Constraints | None
    costs: CostModel
    dense: Mapping[str, float] = field(default_factory=dict)
    workers: int = 1
    fidelity: Fidelity = "short"
    prior: Sequence[FrozenTrial] = ()

    @property
    def demands(self) -> Mapping[str, Requirement]:
        """Expression -> bound on one value; empty where nothing is demanded."""
        return {} if self.constraints is None else self.constraints.bounds
