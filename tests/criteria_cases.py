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


class Net(nn.Module):
    """A stem and a residual convolution on one group, a grouped convolution behind a group of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.outer = nn.Conv2d(12, 8, 1, bias=False)
        self.outer_norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.depthwise(torch.relu(self.inner_norm(self.inner(x)))))
        return self.fc(torch.relu(x + self.outer_norm(self.outer(y))).mean((2, 3)))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
                if name.endswith("running_var"):
                    value.copy_(value.square() + 0.5)
    return model.eval()


def image_task(model: nn.Module) -> ClassificationTask:
    rng = np.random.default_rng(0)
    data = LabelledArrays(rng.normal(size=(90, 1, 6, 6)), np.arange(90) % 3)
    return ClassificationTask(model, data, batch_size=16)


def permute(model: nn.Module, plan: SlicingPlan, group: PruningGroup, order: np.ndarray) -> None:
    """Reorder a group's units everywhere: the network computes the same."""
    state = model.state_dict()
    with torch.no_grad():
        for entry in plan.dimensions:
            index = np.arange(len(entry.units))
            mine = np.flatnonzero((entry.units >= group.start) & (entry.units < group.start + group.width))
            if not len(mine):
                continue
            index[mine] = mine[order]
            state[entry.parameter].copy_(state[entry.parameter].index_select(entry.dim, torch.from_numpy(index)))
