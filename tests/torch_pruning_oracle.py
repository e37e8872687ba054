"""torch-pruning's own answers, as an oracle: what it couples, and the model it makes of given channels."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch_pruning
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autoprune.groups import ModelGroups
from autoprune.tasks.protocol import Inputs

Index = tuple[str, int, int]


def dependency_graph(model: nn.Module, inputs: Inputs) -> Any:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(model, inputs.args, unwrapped_parameters=[], verbose=False)
    return graph


def prune(model: nn.Module, inputs: Inputs, groups: ModelGroups, alive: npt.NDArray[np.bool_]) -> nn.Module:
    """Copy, trace and prune by torch-pruning: of each group's first layer exactly the outputs of the dead units."""
    pruned = copy.deepcopy(model)
    graph = dependency_graph(pruned, inputs)
    units = {(d.parameter, d.dim): d.units for d in groups.plan.dimensions}
    living = np.append(alive, True)
    for group in groups.groups:
        parameter, dim = group.producers[0]
        layer = pruned.get_submodule(parameter.rpartition(".")[0])
        mine = units[parameter, dim]
        in_group = (mine >= group.start) & (mine < group.start + group.width)
        dead = np.flatnonzero(in_group & ~living[mine]).tolist()
        if dead:
            remove = graph.get_pruner_of_module(layer).prune_out_channels
            graph.get_pruning_group(layer, remove, dead).prune()
    return pruned


def coupled(model: nn.Module, inputs: Inputs) -> set[frozenset[Index]]:
    """Return, for every output channel of every layer, the tensor indices that torch-pruning removes with it."""
    graph = dependency_graph(copy.deepcopy(model), inputs)
    names = {module: name for name, module in graph.model.named_modules()}
    found = set()
    for group in graph.get_all_groups(ignored_layers=[], root_module_types=(_ConvNd, nn.Linear)):
        by_root: dict[int, set[Index]] = defaultdict(set)
        for item in group:
            module = item.dep.target.module
            if module in names:
                outward = graph.is_out_channel_pruning_fn(item.dep.handler)
                for index, root in zip(item.idxs, item.root_idxs, strict=True):
                    by_root[root].update(_indices(names[module], module, outward, index))
        found |= {frozenset(indices) for indices in by_root.values()}
    return found


def _indices(name: str, module: nn.Module, outward: bool, index: int) -> Iterator[Index]:
    if isinstance(module, _BatchNorm):
        tensors = [("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)]
    elif outward or getattr(module, "groups", 1) > 1:
        tensors = [("weight", 0), ("bias", 0)]
    else:
        tensors = [("weight", 1)]
    for leaf, dim in tensors:
        if getattr(module, leaf, None) is not None:
            yield f"{name}.{leaf}", dim, index


def coupled_by(groups: ModelGroups) -> set[frozenset[Index]]:
    """Return, for every unit, the tensor indices that a plan removes with it."""
    by_unit: dict[int, set[Index]] = defaultdict(set)
    for dimension in groups.plan.dimensions:
        for index, unit in enumerate(dimension.units.tolist()):
            if unit >= 0:
                by_unit[unit].add((dimension.parameter, dimension.dim, index))
    return {frozenset(indices) for indices in by_unit.values()}
