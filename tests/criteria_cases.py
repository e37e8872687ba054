"""Small models whose scores can be told by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.groups import DimensionUnits, ModelGroups, PruningGroup, SlicingPlan
from autoprune.pruning.criteria import CriterionContext, importance
from autoprune.tasks import ClassificationTask, LabelledArrays


def by_hand(
    model: nn.Module, width: int, producers: Mapping[str, int], units: Any = None, norms: tuple[str, ...] = ()
) -> ModelGroups:
    """One group of `width` units, each an entry of every producer unless `units` says otherwise."""
    index = np.arange(width) if units is None else np.asarray(units)
    names = {**producers, **{f"{n}.weight": 0 for n in norms}}
    plan = SlicingPlan(width, tuple(DimensionUnits(n, d, index.astype(np.int64)) for n, d in names.items()))
    group = PruningGroup("g", 0, width, "channel", tuple(producers.items()), norms)
    return ModelGroups((group,), (), plan, "torch.export")


def linear(weight: Any, bias: Any = None) -> nn.Sequential:
    tensor = torch.tensor(weight, dtype=torch.float32)
    layer = nn.Linear(tensor.shape[1], tensor.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(tensor)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float32))
    return nn.Sequential(layer)


def score(name: str, model: nn.Module, groups: ModelGroups, task: Any = None, **options: Any) -> list[float]:
    return importance(name, CriterionContext(model, groups, task, 0, **options)).tolist()


class SquareTask(ClassificationTask):
    """Loss = half the mean squared output, so that gradients are known in closed form."""

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return 0.5 * outputs.square().mean()


def square_task(x: Any, batch_size: int = 60) -> SquareTask:
    return SquareTask(nn.Linear(1, 2), LabelledArrays(x, np.arange(len(x)) % 2), batch_size=batch_size)
