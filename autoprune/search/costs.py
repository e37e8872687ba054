"""Workbench -> the costs of any widths of its space, counted and measured once."""

from __future__ import annotations

from torch import nn

from autoprune.axes import MASKED
from autoprune.groups.types import PruningGroup
from autoprune.policy import Policy, Strategy
from autoprune.predictor.cost import CostModel
from autoprune.search.workbench import Workbench


def cost_model(bench: Workbench) -> CostModel:
    """Return the cost of any widths of a run's space.

    Of every part that is taken out of the module tree or put in low rank, the model is edited once at its least width.
    """
    space = bench.space
    kinds = {group.name: space.kind(group) for group in space.groups if not isinstance(group, PruningGroup)}

    def edited(name: str) -> tuple[float, nn.Module] | None:
        kind = kinds[name]
        if kind in MASKED:
            return None
        strategy = Strategy(criterion="l2" if kind == "rank" else "random", granularity=kind)
        policy = Policy({name: space.removed(name)[-1]}, strategy)
        return float(space.widths[name][-1]), bench.pruner.cut(policy).model

    return CostModel.of(bench.model, bench.groups, bench.example, [g.name for g in space.groups], edited)
