"""Model and groups -> importance: one score per unit, higher = keep. A criterion is one registered function."""

from autoprune.pruning.criteria import activations, contribution, geometry, gradients, magnitude
from autoprune.pruning.criteria.base import CRITERIA, CriterionContext, Scores, importance, normalized

__all__ = [
    "CRITERIA",
    "CriterionContext",
    "Scores",
    "activations",
    "contribution",
    "geometry",
    "gradients",
    "importance",
    "magnitude",
    "normalized",
]
