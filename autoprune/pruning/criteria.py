"""Model and groups -> importance: one score per unit, higher = keep.

Every criterion works on whole tensors: the entries of a (parameter, dimension) are summed into units by one bincount,
whatever the kind of layer, and a group's score is taken over the tensors that produce its units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.errors import CandidateError, ConfigError
from autoprune.groups.types import ModelGroups, PruningGroup
from autoprune.registry import Registry
from autoprune.tasks.protocol import Task

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CriterionContext:
    """What a criterion may look at.

    Args:
        model: The dense model; never changed.
        groups: Its groups.
        task: The user's task, for criteria that need data; None otherwise.
        seed: Seed of draws and of data order.
        batches: Calibration batches that data-driven criteria use.
        only: Names of the groups whose scores are wanted, None for all; elsewhere the score is 0.
    """

    model: nn.Module
    groups: ModelGroups
    task: Task | None
    seed: int
    batches: int = 4
    only: Sequence[str] | None = None

    @property
    def wanted(self) -> tuple[PruningGroup, ...]:
        """The groups to score."""
        return tuple(g for g in self.groups.groups if self.only is None or g.name in self.only)


Criterion = Callable[[CriterionContext], Scores]
CRITERIA: Registry[Criterion] = Registry("criterion")


def importance(name: str, context: CriterionContext) -> Scores:
    """Return [unit_count] scores of a criterion, checked: also a third party's has to be finite and of that length.

    Raises:
        UnknownNameError: No criterion of that name.
        ConfigError: The criterion does not fit this model or task, or returns another shape.
        CandidateError: A score is not finite.
    """
    scores = np.asarray(CRITERIA[name](context), dtype=np.float64)
    if scores.shape != (context.groups.plan.unit_count,):
        raise ConfigError(
            f"The criterion {name!r} must return [{context.groups.plan.unit_count}] scores. Got shape {scores.shape}."
        )
    return _finite(scores, name, context)


def normalized(scores: Scores, groups: ModelGroups) -> Scores:
    """Return scores divided by their group's mean, so that units of different groups compare; a mean of 0 is left."""
    out = scores.copy()
    for group in groups.groups:
        span = slice(group.start, group.start + group.width)
        mean = float(scores[span].mean())
        if mean != 0.0:
            out[span] = scores[span] / mean
    return out


@CRITERIA.register("l1")
def l1(context: CriterionContext) -> Scores:
    """Return the mean absolute weight of a unit, averaged over its group's producers (Li et al., ICLR 2017)."""
    return _magnitude(context, "l1", torch.abs, lambda mean: mean)


@CRITERIA.register("l2")
def l2(context: CriterionContext) -> Scores:
    """Return the root mean square weight of a unit, averaged over its group's producers (Han et al., NeurIPS 2015)."""
    return _magnitude(context, "l2", torch.square, np.sqrt)


@CRITERIA.register("bn_scale")
def bn_scale(context: CriterionContext) -> Scores:
    """Return |gamma| averaged over the BatchNorms that scale a unit (Liu et al., ICCV 2017).

    Raises:
        ConfigError: A wanted group has no BatchNorm with a scale.
    """
    scales = {g.name: _scales(context.model, g) for g in context.wanted}
    lacking = [name for name, found in scales.items() if not found]
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise ConfigError(
            f"bn_scale needs a BatchNorm with a scale in every group; {shown} has none.",
            hint="Choose l1, l2 or taylor, or let every group choose its own criterion.",
        )
    means = {key: total / count for key, (total, count) in _reduce(context, scales, torch.abs).items()}
    return _finite(_over_groups(context, scales, means), "bn_scale", context)


@CRITERIA.register("taylor")
def taylor(context: CriterionContext) -> Scores:
    """Return |sum of weight times gradient| of a unit, averaged over calibration batches (Molchanov et al., CVPR 2019).

    The sum runs over all of a group's producers, for they leave together: it is the loss's first-order change. The
    model runs in eval mode, for in training mode BatchNorm makes weight and gradient orthogonal.

    Raises:
        ConfigError: There is no task to take gradients from.
        CandidateError: Loss or gradient is not finite.
    """
    if context.task is None:
        raise ConfigError("taylor needs a task: data and a loss to differentiate.", hint="Choose l1, l2 or bn_scale.")
    producers = {g.name: g.producers for g in context.wanted}
    parameters = {
        name: context.model.get_parameter(name).detach().requires_grad_()
        for name in dict.fromkeys(name for keys in producers.values() for name, _ in keys)
    }
    total = np.zeros(context.groups.plan.unit_count)
    count = 0
    for batch in islice(context.task.batches("calibration", seed=context.seed), context.batches):
        gradients = _gradients(context, parameters, batch)
        sums = {k: s for k, (s, _) in _reduce(context, producers, torch.mul, other=gradients).items()}
        total += np.abs(_over_groups(context, producers, sums, average=False))
        count += 1
    if count == 0:
        raise ConfigError("taylor needs calibration data; batches('calibration') yields nothing.")
    return _finite(total / count, "taylor", context)


@CRITERIA.register("random")
def random(context: CriterionContext) -> Scores:
    """Return a uniform draw in [0, 1) for every unit: the control."""
    return np.random.default_rng(context.seed).random(context.groups.plan.unit_count)


Key = tuple[str, int]
Sums = dict[Key, tuple[Scores, Scores]]


def _magnitude(
    context: CriterionContext, name: str, entry: Callable[[Tensor], Tensor], finish: Callable[[Scores], Scores]
) -> Scores:
    """Average `finish(mean of entry(weight))` of a unit's rows over its group's producing tensors."""
    tensors = {g.name: _weights(context.model, g) for g in context.wanted}
    means = {key: finish(total / count) for key, (total, count) in _reduce(context, tensors, entry).items()}
    return _finite(_over_groups(context, tensors, means), name, context)


def _reduce(
    context: CriterionContext,
    tensors: dict[str, tuple[Key, ...]],
    entry: Callable[..., Tensor],
    *,
    other: dict[str, Tensor] | None = None,
) -> Sums:
    """Sum `entry` of every (parameter, dim) into units.

    Args:
        context: The model and its plan.
        tensors: Group name -> (parameter, dim) pairs.
        entry: Elementwise function of the parameter, and of `other`'s tensor of that name where given.
        other: Second operand by parameter.

    Returns:
        (parameter, dim) -> ([unit_count] sum over a unit's entries, [unit_count] number of entries, NaN where none).
    """
    units = {(d.parameter, d.dim): d.units for d in context.groups.plan.dimensions}
    out: Sums = {}
    for key in dict.fromkeys(key for keys in tensors.values() for key in keys):
        name, dim = key
        weight = context.model.get_parameter(name).detach()
        values = entry(weight, other[name]) if other is not None else entry(weight)
        size = weight.shape[dim]
        sums = values.movedim(dim, 0).reshape(size, -1).sum(dim=1, dtype=torch.float64).cpu().numpy()
        alive = units[key] >= 0
        index, length = units[key][alive], context.groups.plan.unit_count
        entries = np.bincount(index, minlength=length) * (weight.numel() / size)
        total = np.bincount(index, weights=sums[alive], minlength=length).astype(np.float64)
        out[key] = (total, np.where(entries > 0, entries, np.nan).astype(np.float64))
    return out


def _over_groups(
    context: CriterionContext, tensors: dict[str, tuple[Key, ...]], values: dict[Key, Scores], *, average: bool = True
) -> Scores:
    """Join every group's tensors: the mean, or the sum, over those that hold entries of a unit."""
    out = np.zeros(context.groups.plan.unit_count)
    for group in context.wanted:
        span = slice(group.start, group.start + group.width)
        rows = np.stack([values[key][span] for key in tensors[group.name]])
        held = ~np.isnan(rows) if average else np.ones_like(rows, dtype=bool)
        total = np.where(held, rows, 0.0).sum(axis=0)
        out[span] = total / np.maximum(held.sum(axis=0), 1) if average else total
    return out


def _gradients(context: CriterionContext, parameters: dict[str, Tensor], batch: object) -> dict[str, Tensor]:
    """Return the loss's gradient by parameter, 0 where the loss does not depend on it; the model is left as it is."""
    task, model = context.task, context.model
    assert task is not None
    device = next(iter(parameters.values())).device
    batch = task.move(batch, device)
    args, kwargs = task.inputs(batch)
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            loss = task.loss(task.structure(functional_call(model, parameters, args, kwargs)), batch)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for module, training in modes:
            module.training = training
    pairs = zip(parameters.items(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


def _weights(model: nn.Module, group: PruningGroup) -> tuple[Key, ...]:
    """Return the producers that are weights, or all of them where every one is a vector: biases are no evidence."""
    matrices = tuple(key for key in group.producers if model.get_parameter(key[0]).ndim > 1)
    return matrices or group.producers


def _scales(model: nn.Module, group: PruningGroup) -> tuple[Key, ...]:
    return tuple(
        (f"{n}.weight", 0) for n in group.batch_norms if getattr(model.get_submodule(n), "weight", None) is not None
    )


def _finite(scores: Scores, name: str, context: CriterionContext) -> Scores:
    if np.isfinite(scores).all():
        return scores
    bad = int(np.flatnonzero(~np.isfinite(scores))[0])
    group = next((g.name for g in context.groups.groups if g.start <= bad < g.start + g.width), "?")
    raise CandidateError(
        f"The criterion {name!r} is not finite in group {group!r}.",
        reason="nonfinite",
        stage="prune",
        hint="Check the model's weights for NaN or infinity.",
    )
