"""Model and groups -> importance: one score per unit, or per weight; higher = keep. A criterion is one function."""

from autoprune.pruning.criteria import activations, contribution, geometry, gradients, magnitude
from autoprune.pruning.criteria.base import CRITERIA, CriterionContext, Scores, importance, normalized
from autoprune.pruning.criteria.weights import WEIGHT_CRITERIA, weight_importance

__all__ = [
    "CRITERIA",
    "WEIGHT_CRITERIA",
    "CriterionContext",
    "Scores",
    "activations",
    "contribution",
    "geometry",
    "gradients",
    "importance",
    "magnitude",
    "normalized",
    "weight_importance",
]
