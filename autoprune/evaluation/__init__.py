"""Deployed form -> numbers: quality with intervals, latency against the dense model, cost, and the host gate."""

from autoprune.evaluation.cost import count_macs, measure_cost
from autoprune.evaluation.gate import HostGate
from autoprune.evaluation.latency import LatencySettings, measure_latency
from autoprune.evaluation.passes import pool_passes
from autoprune.evaluation.quality import DEFAULT_MARGIN, compare, intervals, predictor_of, score
from autoprune.evaluation.types import Cost, Evaluation, Interval, Latency, PairedChange

__all__ = [
    "DEFAULT_MARGIN",
    "Cost",
    "Evaluation",
    "HostGate",
    "Interval",
    "Latency",
    "LatencySettings",
    "PairedChange",
    "compare",
    "count_macs",
    "intervals",
    "measure_cost",
    "measure_latency",
    "pool_passes",
    "predictor_of",
    "score",
]
