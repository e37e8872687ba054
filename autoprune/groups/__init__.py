"""Model -> groups: what can be pruned, proven by re-export, and the plan that cuts any set of units."""

from autoprune.groups.architecture import architecture_from_json, architecture_to_json
from autoprune.groups.edits import apply_edits, edits_of
from autoprune.groups.factors import low_rank_edit
from autoprune.groups.find import find_groups
from autoprune.groups.preparation import prepare_model
from autoprune.groups.slicing import (
    architecture_of,
    mask_model,
    rebuild,
    slice_model,
)
from autoprune.groups.types import (
    NO_UNIT,
    ArchitecturePlan,
    AttributeRule,
    DimensionUnits,
    Edit,
    Granularity,
    GroupedWeight,
    IntArray,
    ModelGroups,
    Part,
    ProtectedLayer,
    PruningGroup,
    SlicingPlan,
)

__all__ = [
    "NO_UNIT",
    "ArchitecturePlan",
    "AttributeRule",
    "DimensionUnits",
    "Edit",
    "Granularity",
    "GroupedWeight",
    "IntArray",
    "ModelGroups",
    "Part",
    "ProtectedLayer",
    "PruningGroup",
    "SlicingPlan",
    "apply_edits",
    "architecture_from_json",
    "architecture_of",
    "architecture_to_json",
    "edits_of",
    "find_groups",
    "low_rank_edit",
    "mask_model",
    "prepare_model",
    "rebuild",
    "slice_model",
]
