"""Criteria of what the units answer: how much of a unit's output the layers behind it get to see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.groups.types import PruningGroup
from autoprune.pruning.criteria.base import (
    CRITERIA,
    CriterionContext,
    Key,
    Scores,
    calibration,
    eval_mode,
    require_finite,
    units_of,
)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Place:
    """Where the outputs of a group's units can be seen.

    Args:
        path: Module path of a layer that reads them, or makes them.
        key: The dimension of its weight that belongs to the units.
        reads: Whether it reads them.
    """

    path: str
    key: Key
    reads: bool


@dataclass
class Totals:
    """Sums over all that was seen at one place, each [channels]."""

    squares: Tensor
    present: Tensor
    count: int = 0


Add = Callable[[Place, Tensor], None]


@CRITERIA.register("activation")
def activation(context: CriterionContext) -> Scores:
    """Return how much of a unit arrives at the layers that read it, over calibration batches.

    Where convolutions read it: the share of its activations that are not zero, 1 - APoZ (Hu et al., Network Trimming,
    2016); of units that are equal in that, as behind a linear bottleneck where nothing is ever zero, their root mean
    square. Where only linear layers do: the norm of its activations times the mean absolute weight that reads them (Sun
    et al., Wanda, ICLR 2024). A group that neither reads is judged by the share of its own outputs that are positive.
    An average over the places. One forward pass a batch.

    Raises:
        ConfigError: There is no task or no calibration data.
        CandidateError: An activation is not finite.
    """
    places = {g.name: _places(context, g) for g in context.wanted}
    seen: dict[Place, Totals] = {}
    look_at(context, {p for found in places.values() for p in found}, _adding(context.model, seen))
    units, out = units_of(context), np.zeros(context.groups.plan.unit_count)
    for group in context.wanted:
        parts = [_by_unit(_scores(context, p, seen[p]), units[p.key], group) for p in places[group.name] if p in seen]
        if parts:
            out[group.start : group.start + group.width] = np.mean(parts, axis=0)
    return require_finite(out, "activation", context)


def look_at(context: CriterionContext, places: Iterable[Place], add: Add) -> None:
    """Run the model over the calibration batches in eval mode and hand `add` what passes the places.

    Raises:
        ConfigError: There is no task or no calibration data.
    """
    with watched(context.model, places, add), eval_mode(context.model), torch.no_grad():
        for drawn in calibration(context, "activation"):
            context.model(*drawn.inputs.args, **drawn.inputs.kwargs)


def _places(context: CriterionContext, group: PruningGroup) -> list[Place]:
    """Return the convolutions that read a group, else the linear layers that do, else those that make it."""
    convolutions, linear = [], []
    for dimension in context.groups.plan.dimensions:
        path, _, kind = dimension.parameter.rpartition(".")
        inside = (dimension.units >= group.start) & (dimension.units < group.start + group.width)
        if kind != "weight" or dimension.dim != 1 or not inside.any():
            continue
        place, module = Place(path, (dimension.parameter, 1), True), context.model.get_submodule(path)
        if isinstance(module, CONVOLUTIONS) and module.groups == 1:
            convolutions.append(place)
        elif isinstance(module, nn.Linear):
            linear.append(place)
    makers = [
        Place(name.rpartition(".")[0], (name, dim), False)
        for name, dim in group.producers
        if dim == 0 and isinstance(context.model.get_submodule(name.rpartition(".")[0]), (*CONVOLUTIONS, nn.Linear))
    ]
    return convolutions or linear or makers


def _adding(model: nn.Module, seen: dict[Place, Totals]) -> Add:
    """Return what sums up the channels that pass a place."""

    def add(place: Place, x: Tensor) -> None:
        values = by_channel(model.get_submodule(place.path), x)
        present = ((values != 0) if place.reads else (values > 0)).sum(1).double()
        if place not in seen:
            seen[place] = Totals(torch.zeros_like(present), torch.zeros_like(present))
        seen[place].squares += values.square().sum(1)
        seen[place].present += present
        seen[place].count += values.shape[1]

    return add


def by_channel(module: nn.Module, x: Tensor) -> Tensor:
    """Return [channels, positions] float64 of what a linear layer (last dimension) or a convolution (second) sees."""
    channels = x.movedim(-1 if isinstance(module, nn.Linear) else 1, 0)
    return channels.reshape(len(channels), -1).double()


@contextmanager
def watched(model: nn.Module, places: Iterable[Place], add: Add) -> Iterator[None]:
    """Hand `add` what passes the places of a model, the first argument or the output, as long as the context lasts."""

    def before(place: Place) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, args, kwargs: add(place, args[0] if args else next(iter(kwargs.values())))

    def after(place: Place) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda _, __, output: add(place, output)

    with ExitStack() as hooks:
        for place in places:
            module = model.get_submodule(place.path)
            handle = (
                module.register_forward_pre_hook(before(place), with_kwargs=True)
                if place.reads
                else module.register_forward_hook(after(place))
            )
            hooks.callback(handle.remove)
        yield


def _scores(context: CriterionContext, place: Place, totals: Totals) -> Scores:
    """Return one score an index of the place's dimension."""
    module = context.model.get_submodule(place.path)
    if place.reads and isinstance(module, nn.Linear):
        reading = module.weight.detach().double().abs().mean(0)
        return np.asarray((totals.squares.sqrt() * reading).cpu().numpy())
    shares = totals.present / totals.count
    if len(shares) > 1 and bool((shares == shares[0]).all()):
        shares = (totals.squares / totals.count).sqrt()
    return np.asarray(shares.cpu().numpy())


def _by_unit(values: Scores, units: npt.NDArray[np.int64], group: PruningGroup) -> Scores:
    """Return [width] the mean over each unit's indices; 0 for a unit that has none."""
    found = units - group.start
    index = np.flatnonzero((found >= 0) & (found < group.width))
    total = np.bincount(found[index], weights=values[index], minlength=group.width)
    return total / np.maximum(np.bincount(found[index], minlength=group.width), 1)
