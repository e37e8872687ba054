"""What went -> what should come back: a regrowth is one registered function of gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call

from autoprune.groups.types import NO_UNIT
from autoprune.pruning.criteria.base import CriterionContext, Key, calibration, eval_mode
from autoprune.registry import Registry

Alive = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]
SHARE = 0.3
JUST_OPEN = 1e-3


@dataclass(frozen=True)
class Returns:
    """How much the return of what is gone would bring.

    Args:
        units: [unit_count] higher = sooner.
        weights: Weight -> the same for every entry.
    """

    units: Scores
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class RegrowthContext:
    """What a regrowth may look at.

    Args:
        scoring: The masked model with its groups and task.
        memory: Parameter -> its value with everything that is gone as it was when it went.
        alive: [unit_count] units that are there.
        masks: Weight -> entries that are there.
        searched: Names of the searched groups.
    """

    scoring: CriterionContext
    memory: Mapping[str, Tensor]
    alive: Alive
    masks: Mapping[str, Tensor]


Regrowth = Callable[[RegrowthContext], Returns | None]
REGROWTHS: Registry[Regrowth] = Registry("regrowth")
"""Name -> function of a context -> what a return would bring; None where nothing returns."""


@REGROWTHS.register("none")
def none(context: RegrowthContext) -> None:
    """Return nothing: what went stays away."""
    del context


@REGROWTHS.register("gradient")
def gradient(context: RegrowthContext) -> Returns:
    """Return the size of the loss's gradient at what is gone (Evci et al., Rigging the Lottery, ICML 2020).

    For weights it is |dL/dw| at 0. For units it is how steeply the loss falls when a factor on the unit, with the
    weights that it had, leaves 0: -dL/dg; units that would raise the loss come last. One backward pass a batch. The
    slope is taken just above 0, for that of a ReLU at 0 is none.
    """
    scoring = context.scoring
    units = {(d.parameter, d.dim): d.units for d in scoring.groups.plan.dimensions}
    keys = _switches(scoring)
    total = np.zeros(scoring.groups.plan.unit_count)
    slopes = {name: torch.zeros_like(mask, dtype=torch.float64) for name, mask in context.masks.items()}
    memory = {n: v.detach().to(scoring.model.get_parameter(n).device) for n, v in context.memory.items()}
    count = 0
    for drawn in calibration(scoring, "gradient"):
        count += 1
        gate = torch.from_numpy(np.where(context.alive, 1.0, JUST_OPEN)).float().requires_grad_()
        leaves = {n: scoring.model.get_parameter(n).detach().clone().requires_grad_() for n in context.masks}
        values = {**memory, **leaves}
        for name, dim in keys:
            values[name] = values[name] * _factors(gate, units[name, dim], values[name], dim)
        assert scoring.task is not None
        with eval_mode(scoring.model), torch.enable_grad():
            outputs = functional_call(scoring.model, values, drawn.inputs.args, drawn.inputs.kwargs)
            loss = scoring.task.loss(scoring.task.structure(outputs), drawn.batch)
            found = torch.autograd.grad(loss, [gate, *leaves.values()], allow_unused=True)
        if found[0] is not None:
            total -= found[0].double().numpy()
        for name, slope in zip(leaves, found[1:], strict=True):
            if slope is not None:
                slopes[name] += slope.abs().double().cpu()
    return Returns(total / count, {name: slope / count for name, slope in slopes.items()})


def exchanged(kept: Alive, before: Alive, scores: Scores, returns: Scores, progress: float) -> Alive:
    """Return [n] what is kept when some of what was gone before comes back and as much of the weakest goes instead.

    Args:
        kept: [n] what would stay after this cut.
        before: [n] what was there before it.
        scores: [n] importance.
        returns: [n] what a return would bring.
        progress: Share in (0, 1] of the cuts made before: fewer return the later it is, none in the end.
    """
    gone = np.flatnonzero(~before)
    count = min(round(SHARE * (1.0 - progress) * len(gone)), int(kept.sum()) - 1)
    back = gone[np.argsort(-returns[gone], kind="stable")][: max(count, 0)]
    back = back[returns[back] > 0.0]
    out = kept.copy()
    staying = np.flatnonzero(kept)
    out[staying[np.argsort(scores[staying], kind="stable")[: len(back)]]] = False
    out[back] = True
    return out


def _factors(gate: Tensor, units: npt.NDArray[np.int64], weight: Tensor, dim: int) -> Tensor:
    padded = torch.cat([gate, gate.new_ones(1)]).to(weight.device)
    index = torch.from_numpy(np.where(units == NO_UNIT, len(gate), units)).to(weight.device)
    shape = [1] * weight.ndim
    shape[dim] = -1
    return padded[index].reshape(shape)


def _switches(scoring: CriterionContext) -> tuple[Key, ...]:
    """Return the (parameter, dim) where a factor switches a unit on: each signal path of a unit has it once.

    BatchNorm's scale and shift where every producing weight has a BatchNorm of its own, else all producers.
    """
    keys: list[Key] = []
    for group in scoring.wanted:
        weights = [key for key in group.producers if scoring.model.get_parameter(key[0]).ndim > 1]
        norms = [(f"{norm}.{name}", 0) for norm in group.batch_norms for name in ("weight", "bias")]
        keys += norms if len(group.batch_norms) == len(weights) else group.producers
    return tuple(dict.fromkeys(keys))
