"""Operator families. Importing this package registers all handlers; what has none keeps its operands whole."""

from autoprune.groups.tracing.operators import (
    attention,
    contractions,
    convolutions,
    elementwise,
    indexing,
    norms,
    reductions,
    shape,
    spatial,
)
from autoprune.groups.tracing.operators.registry import (
    OPERATORS,
    Call,
    GroupedColumns,
    Result,
    UnsupportedOperatorError,
    Weights,
    operator,
)

__all__ = [
    "OPERATORS",
    "Call",
    "GroupedColumns",
    "Result",
    "UnsupportedOperatorError",
    "Weights",
    "attention",
    "contractions",
    "convolutions",
    "elementwise",
    "indexing",
    "norms",
    "operator",
    "reductions",
    "shape",
    "spatial",
]
