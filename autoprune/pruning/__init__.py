"""Policy -> pruned model: criteria, selection, surgery, recovery."""

from autoprune.pruning.criteria import CRITERIA, CriterionContext
from autoprune.pruning.pipeline import PrunedModel, Pruner, Recovery, prune
from autoprune.pruning.recovery import as_recalibrated, distillation_penalty, fine_tune, recalibrate

__all__ = [
    "CRITERIA",
    "CriterionContext",
    "PrunedModel",
    "Pruner",
    "Recovery",
    "as_recalibrated",
    "distillation_penalty",
    "fine_tune",
    "prune",
    "recalibrate",
]
