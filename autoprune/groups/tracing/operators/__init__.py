"""Operator families. Importing this package registers all handlers; what has none keeps its operands whole."""

from autoprune.groups.tracing.operators import (
    attention,
    contractions,
    convolutions,
    elementwise,
    indexing,
    norms,
    recurrent,
    reductions,
    shape,
    spatial,
)
from autoprune.groups.tracing.operators.registry import (
    OPERATORS,
    Call,
    Result,
    UnsupportedOperatorError,
    Weights,
    operator,
    operator_name,
)

FAMILIES = (attention, contractions, convolutions, elementwise, indexing, norms, recurrent, reductions, shape, spatial)

__all__ = [
    "FAMILIES",
    "OPERATORS",
    "Call",
    "Result",
    "UnsupportedOperatorError",
    "Weights",
    "operator",
    "operator_name",
]
