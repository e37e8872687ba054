"""Policy -> pruned model: criteria, selection, surgery, recovery."""

from autoprune.pruning.criteria import CRITERIA, CriterionContext
from autoprune.pruning.distilling import distillation_penalty
from autoprune.pruning.distributed import Team, fine_tune_together
from autoprune.pruning.pipeline import PrunedModel, Pruner, Recovery, prune, recover_context
from autoprune.pruning.recovery import as_recalibrated, fine_tune, placed, recalibrate

__all__ = [
    "CRITERIA",
    "CriterionContext",
    "PrunedModel",
    "Pruner",
    "Recovery",
    "Team",
    "as_recalibrated",
    "distillation_penalty",
    "fine_tune",
    "fine_tune_together",
    "placed",
    "prune",
    "recalibrate",
    "recover_context",
]
