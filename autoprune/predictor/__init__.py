"""Widths and measurements -> predicted cost, latency and quality of candidates that were not built."""

from autoprune.predictor.cost import CostModel
from autoprune.predictor.latency import LatencyError, LatencyModel
from autoprune.predictor.trust import (
    CostOnly,
    Outcome,
    PriorComparison,
    TrustLog,
    TrustRound,
    better_than_prior,
    coverage,
    kendall_tau,
    recalibration,
    same_cost_concordance,
)

__all__ = [
    "CostModel",
    "CostOnly",
    "LatencyError",
    "LatencyModel",
    "Outcome",
    "PriorComparison",
    "TrustLog",
    "TrustRound",
    "better_than_prior",
    "coverage",
    "kendall_tau",
    "recalibration",
    "same_cost_concordance",
]
