"""A net of the zoo with all that prunes it, and what is measured of it: shared by the tests and `benchmarks.zoo`."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from autoprune.evaluation.cost import count_macs
from autoprune.groups import ModelGroups, find_groups, prepare_model
from autoprune.groups.edits import replace_module
from autoprune.groups.slicing import Slicer
from autoprune.policy import Policy, Strategy
from autoprune.pruning import Pruner
from autoprune.runtimes.session import tensor_leaves
from autoprune.tasks.base import BaseTask
from autoprune.tasks.protocol import Evaluated, Inputs, MetricSpec, Predict, Split

from . import ZOO, image

SMALLER: Mapping[str, Inputs] = dict.fromkeys(
    ("resnet50", "resnext50", "mobilenetv2", "efficientnet_lite0"), image(64, batch=1)
)
"""Inputs of nets made for large images, so that a pass is cheap; groups and shares do not depend on it much."""

NO_ONNX: Mapping[str, str] = {
    "bfloat16": "ONNX Runtime's CPU provider has no convolution in half precision",
    "data_dependent": "its Python depends on data, which no exporter takes",
}
"""Nets without an ONNX form, and why."""

MOST = 0.9
_BATCHES = 2

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """A prepared net; nobody may change it.

    Args:
        source: The net as it was built.
        model: The prepared net, in eval mode.
        prepared: Paths that preparation replaced.
        inputs: Arguments of one call.
        groups: What can be pruned.
        pruner: Prunes it under a task of random data.
    """

    name: str
    source: nn.Module
    model: nn.Module
    prepared: tuple[str, ...]
    inputs: Inputs
    groups: ModelGroups
    pruner: Pruner

    @property
    def exact(self) -> Bools:
        """[unit_count] Units in whose groups zeroing equals removing."""
        return np.repeat([g.exact_masking for g in self.groups.groups], [g.width for g in self.groups.groups])


@cache
def case(name: str) -> Case:
    """Return a net of the zoo, built once a session."""
    source, given = ZOO[name]()
    return make_case(name, source, SMALLER.get(name, given))


def make_case(name: str, source: nn.Module, inputs: Inputs) -> Case:
    """Prepare any net, find its groups and what prunes it; `source` is left as it is."""
    model, prepared = prepare_model(copy.deepcopy(source))
    groups = find_groups(model, inputs)
    pruner = Pruner(model, groups, RandomTask(model, inputs), prepared=prepared)
    return Case(name, source, model, prepared, inputs, groups, pruner)


class Batch(NamedTuple):
    """Inputs of a call and a target of the shape of every floating output."""

    inputs: Inputs
    targets: list[Tensor]


class RandomTask(BaseTask):
    """Random inputs and targets for any net; the loss is the mean squared error over all its outputs."""

    name = "random"
    metrics: Sequence[MetricSpec] = (MetricSpec("error", "min", (0.0, math.inf)),)

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model = model
        self.example = inputs
        self.shapes = [leaf.shape for leaf in floating(call(model, inputs))]

    def build_model(self) -> nn.Module:
        return copy.deepcopy(self.model)

    def example_inputs(self, *, batch_size: int = 1, shape: str = "default") -> Inputs:
        del shape
        return rebatched(self.example, batch_size)

    def batches(
        self, split: Split, *, seed: int, batch_size: int | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        """Yield two batches of the example's size, whatever is asked for."""
        del split, batch_size, limit
        for number in range(_BATCHES):
            generator = torch.Generator().manual_seed(1000 * seed + number)
            targets = [torch.randn(shape, generator=generator) for shape in self.shapes]
            yield Batch(redrawn(self.example, generator), targets)

    def inputs(self, batch: Any) -> Inputs:
        found: Inputs = batch.inputs
        return found

    def structure(self, outputs: Any) -> list[Tensor]:
        return floating(outputs)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        pairs = zip(outputs, batch.targets, strict=True)
        return torch.stack([F.mse_loss(output.float(), target) for output, target in pairs]).mean()

    def evaluate(self, predict: Predict, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        batches = list(self.batches(split, seed=seed, limit=limit))
        errors = np.array([float(self.loss(self.structure(predict(b.inputs)), b)) for b in batches])
        per_unit = {"error": errors}
        return Evaluated(self.aggregate(per_unit), "batch", tuple(map(str, range(len(errors)))), per_unit)


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Return a model's outputs, without gradients."""
    with torch.no_grad():
        return model(*inputs.args, **inputs.kwargs)


def floating(outputs: Any) -> list[Tensor]:
    """Return the floating tensors of a nested output, in order."""
    return [leaf for leaf in tensor_leaves(outputs) if leaf.is_floating_point()]


def rebatched(inputs: Inputs, batch: int) -> Inputs:
    """Return inputs with `batch` rows: the given ones in turn."""
    found: Inputs = pytree.tree_map_only(Tensor, lambda leaf: leaf[torch.arange(batch) % len(leaf)], inputs)
    return found


def redrawn(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Return other inputs of the same kind: noise for floating ones, the same numbers in another order for others."""

    def draw(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point():
            return torch.randn(leaf.shape, generator=generator).to(leaf.dtype)
        return leaf.flatten()[torch.randperm(leaf.numel(), generator=generator)].view(leaf.shape)

    found: Inputs = pytree.tree_map_only(Tensor, draw, inputs)
    return found


def random_policy(groups: ModelGroups, seed: int) -> Policy:
    """Return a policy that removes a random share of every group, ranked at random."""
    rng = np.random.default_rng(seed)
    shares = {group.name: float(rng.uniform(0.0, MOST)) for group in groups.groups}
    return Policy(shares, Strategy(criterion="random", recovery="recalibrate"))


def least_alive(groups: ModelGroups) -> Bools:
    """Return [unit_count] True for the first unit of every group."""
    alive = np.zeros(groups.plan.unit_count, dtype=np.bool_)
    alive[[group.start for group in groups.groups]] = True
    return alive


def prunable_share(case: Case) -> float:
    """Return which share of the multiply-accumulates vanishes when every group is cut to one unit."""
    least = Slicer(case.model, case.groups.plan).slice(least_alive(case.groups))
    return 1.0 - count_macs(least, case.inputs) / count_macs(case.model, case.inputs)


class Scale(nn.Module):
    """What stands for a norm where masking has to be exact: its weight and bias, without the statistics.

    Args:
        norm: A LayerNorm, RMSNorm or GroupNorm.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        channels_first = isinstance(norm, nn.GroupNorm) or getattr(norm, "data_format", "") == "channels_first"
        self.axis = 1 if channels_first else -1
        self.weight: nn.Parameter | None = getattr(norm, "weight", None)
        self.bias: nn.Parameter | None = getattr(norm, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift dimension 1 for GroupNorm and norms of images, the last one otherwise."""
        shape = [1] * x.dim()
        shape[self.axis] = -1
        y = x if self.weight is None else x * self.weight.view(shape)
        return y if self.bias is None else y + self.bias.view(shape)


def substituted(model: nn.Module) -> nn.Module:
    """Return a copy in which every LayerNorm, RMSNorm and GroupNorm, by its class's name, only scales and shifts."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if re.search("(LayerNorm|RMSNorm|GroupNorm)$", type(module).__name__):
            replace_module(model, module, Scale(module))
    return model


def masking_error(model: nn.Module, case: Case, alive: Bools) -> float:
    """Return the largest difference of the sliced model from the zeroed one, over the latter's largest output."""
    slicer = Slicer(model, case.groups.plan)
    sliced, zeroed = (floating(call(m, case.inputs)) for m in (slicer.slice(alive), slicer.mask(alive)))
    pairs = list(zip(sliced, zeroed, strict=True))
    assert all(left.shape == right.shape for left, right in pairs)
    return max(float((left - right).abs().max() / right.abs().max().clamp_min(1e-12)) for left, right in pairs)
