"""Deployed form -> numbers: quality with intervals, latency against the dense model, cost, and the host gate."""

from autoprune.evaluation.agreement import agreement, by_class, confusion
from autoprune.evaluation.cost import count_macs, measure_cost
from autoprune.evaluation.gate import HostGate
from autoprune.evaluation.latency import LatencySettings, measure_latency
from autoprune.evaluation.passes import pool_passes
from autoprune.evaluation.quality import DEFAULT_MARGIN, compare, intervals, predictor_of, score
from autoprune.evaluation.robustness import Condition, Conditions, conditions_of, score_conditions
from autoprune.evaluation.stability import Gap, gap_between, gradient_norms
from autoprune.evaluation.types import (
    Agreement,
    ClassScore,
    Cost,
    Evaluation,
    Interval,
    Latency,
    PairedChange,
)

__all__ = [
    "DEFAULT_MARGIN",
    "Agreement",
    "ClassScore",
    "Condition",
    "Conditions",
    "Cost",
    "Evaluation",
    "Gap",
    "HostGate",
    "Interval",
    "Latency",
    "LatencySettings",
    "PairedChange",
    "agreement",
    "by_class",
    "compare",
    "conditions_of",
    "confusion",
    "count_macs",
    "gap_between",
    "gradient_norms",
    "intervals",
    "measure_cost",
    "measure_latency",
    "pool_passes",
    "predictor_of",
    "score",
    "score_conditions",
]
