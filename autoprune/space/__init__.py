"""Groups -> space: which widths and which strategies may be chosen, and how an Optuna trial chooses among them."""

from autoprune.space.allotments import Allotment
from autoprune.space.bound import CRITERION_PREFIX, LEVEL_PREFIX, BoundSpace, Chosen
from autoprune.space.conditions import UNTRAINED, Branch, OwnChoice, numbers_of
from autoprune.space.ready import list_spaces, load_space
from autoprune.space.spec import (
    OWN_AXES,
    AmountSpec,
    ChoiceSpec,
    Kind,
    RangeSpec,
    SearchSpace,
    SparsitySpec,
    StepsSpec,
    StrategySpec,
)
from autoprune.space.widths import MASKS, ROUND_LIMIT, Item, group_levels

__all__ = [
    "CRITERION_PREFIX",
    "LEVEL_PREFIX",
    "MASKS",
    "OWN_AXES",
    "ROUND_LIMIT",
    "UNTRAINED",
    "Allotment",
    "AmountSpec",
    "BoundSpace",
    "Branch",
    "ChoiceSpec",
    "Chosen",
    "Item",
    "Kind",
    "OwnChoice",
    "RangeSpec",
    "SearchSpace",
    "SparsitySpec",
    "StepsSpec",
    "StrategySpec",
    "group_levels",
    "list_spaces",
    "load_space",
    "numbers_of",
]
