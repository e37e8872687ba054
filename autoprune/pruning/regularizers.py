"""Strength -> what happens to the weights after each step of training: a regularizer is one registered function.

Penalties act by their proximal operator after the optimizer's step (Parikh and Boyd, Proximal Algorithms, 2014), not
through the loss: an L1 penalty then gives exact zeros, gradient clipping does not drown the task's own gradient, any
optimizer and any training loop will do, and a step costs no backward pass. The strength is free of scale: over the
whole phase, a weight on which the task has no say moves by `strength` times the mean size of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.groups.types import ModelGroups, Part, PruningGroup
from autoprune.registry import Registry

Alive = npt.NDArray[np.bool_]
Project = Callable[[nn.Module, int], None]


@dataclass(frozen=True)
class RegularizerContext:
    """What a regularizer may look at.

    Args:
        model: The model before training; never changed.
        groups: All of its groups, with the plan.
        searched: The structural groups that are pruned.
        tensors: The weights that are masked.
        strength: Factor, > 0; None takes the regularizer's own.
        steps: Optimizer steps of the phase, >= 1.
        alive: [unit_count] units that would stay.
    """

    model: nn.Module
    groups: ModelGroups
    searched: Sequence[PruningGroup]
    tensors: Sequence[Part]
    strength: float | None
    steps: int
    alive: Alive

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the weights that make the searched units, and of the masked ones."""
        made = [n for g in self.searched for n, _ in g.producers if self.model.get_parameter(n).ndim > 1]
        return tuple(dict.fromkeys([*made, *(p.name for p in self.tensors)]))


Regularizer = Callable[[RegularizerContext], Project | None]
REGULARIZERS: Registry[Regularizer] = Registry("regularizer")
"""Name -> function of a context -> function of (model, step) that changes the model in place after a step."""


@REGULARIZERS.register("none")
def none(context: RegularizerContext) -> None:
    """Return nothing: no penalty."""
    del context


@REGULARIZERS.register("l1")
def l1(context: RegularizerContext) -> Project:
    """Return soft-thresholding, w -> sign(w) max(|w| - t, 0): the penalty sum |w| (Tibshirani, Lasso, 1996)."""
    return _soft(context, context.names, 0.5)


@REGULARIZERS.register("bn_l1")
def bn_l1(context: RegularizerContext) -> Project:
    """Return soft-thresholding of BatchNorm scales: the penalty sum |gamma| (Liu et al., Network Slimming, 2017)."""
    names = tuple(dict.fromkeys(f"{norm}.weight" for g in context.searched for norm in g.batch_norms))
    return _soft(context, names, 0.5)


@REGULARIZERS.register("l2")
def l2(context: RegularizerContext) -> Project:
    """Return decoupled decay, w -> (1 - d) w: the penalty sum w^2 / 2 (Loshchilov and Hutter, ICLR 2019)."""
    decay = (context.strength or 0.5) / context.steps

    def project(model: nn.Module, step: int) -> None:
        del step
        for name in context.names:
            model.get_parameter(name).mul_(1.0 - min(decay, 1.0))

    return torch.no_grad()(project)


@REGULARIZERS.register("group_lasso")
def group_lasso(context: RegularizerContext) -> Project:
    """Return soft-thresholding of whole units, w_u -> w_u max(1 - t / |w_u|, 0): the penalty sum |w_u| (Wen, 2016).

    A unit's norm runs over its row in each producing weight; masked weights have no units and are left alone.
    """
    rows = _rows(context)
    bounds = {key: _norms(context.model, key).mean() * (context.strength or 0.5) / context.steps for key in rows}

    def project(model: nn.Module, step: int) -> None:
        del step
        for key in rows:
            norms = _norms(model, key)
            _scale(model, key, (1.0 - bounds[key].to(norms.device) / norms.clamp_min(1e-12)).clamp_min(0.0))

    return torch.no_grad()(project)


@REGULARIZERS.register("growing_l2")
def growing_l2(context: RegularizerContext) -> Project:
    """Return decay that grows step by step, on the units that will go alone (Wang et al., ICLR 2021).

    At strength s a unit on which the task has no say ends at exp(-s) of its size.
    """
    strength, steps = context.strength or 3.0, context.steps
    units = {(d.parameter, d.dim): d.units for d in context.groups.plan.dimensions}
    rows = {}
    for key in _rows(context):
        gone = ~np.append(context.alive, True)[units[key]]
        rows[key] = torch.from_numpy(gone)

    def project(model: nn.Module, step: int) -> None:
        decay = strength * (2 * step + 1) / steps**2
        for key, gone in rows.items():
            device = model.get_parameter(key[0]).device
            _scale(model, key, torch.where(gone.to(device), float(np.exp(-decay)), 1.0))

    return torch.no_grad()(project)


@REGULARIZERS.register("max_norm")
def max_norm(context: RegularizerContext) -> Project:
    """Return the projection on |w_u| <= c, c = strength times the mean norm before (Srivastava et al., JMLR 2014)."""
    rows = _rows(context)
    bounds = {key: _norms(context.model, key).mean() * (context.strength or 1.5) for key in rows}

    def project(model: nn.Module, step: int) -> None:
        del step
        for key in rows:
            norms = _norms(model, key)
            _scale(model, key, (bounds[key].to(norms.device) / norms.clamp_min(1e-12)).clamp_max(1.0))

    return torch.no_grad()(project)


def _soft(context: RegularizerContext, names: Sequence[str], usual: float) -> Project:
    """Return soft-thresholding by the same amount after every step, in sum `strength` times the mean size."""
    share = (context.strength or usual) / context.steps
    amounts: Mapping[str, Tensor] = {n: context.model.get_parameter(n).detach().abs().mean() * share for n in names}

    def project(model: nn.Module, step: int) -> None:
        del step
        for name, amount in amounts.items():
            weight = model.get_parameter(name)
            weight.copy_(torch.sign(weight) * (weight.abs() - amount.to(weight.device)).clamp_min(0.0))

    return torch.no_grad()(project)


def _rows(context: RegularizerContext) -> tuple[tuple[str, int], ...]:
    """Return the (weight, dim) whose slices are the searched units."""
    found = [k for g in context.searched for k in g.producers if context.model.get_parameter(k[0]).ndim > 1]
    return tuple(dict.fromkeys(found))


def _norms(model: nn.Module, key: tuple[str, int]) -> Tensor:
    weight = model.get_parameter(key[0]).detach().movedim(key[1], 0)
    found: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return found


def _scale(model: nn.Module, key: tuple[str, int], factor: Tensor) -> None:
    weight = model.get_parameter(key[0])
    shape = [1] * weight.ndim
    shape[key[1]] = -1
    weight.mul_(factor.reshape(shape))
