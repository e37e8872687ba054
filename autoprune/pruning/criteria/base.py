"""What every criterion shares: its context and registry, sums over units, joining a group's tensors.

Every criterion works on whole tensors: the entries of a (parameter, dimension) are summed into units by one bincount,
whatever the kind of layer, and a group's score is taken over the tensors that produce its units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.errors import CandidateError, ConfigError
from autoprune.groups.types import ModelGroups, PruningGroup
from autoprune.registry import Registry
from autoprune.tasks.protocol import Inputs, Task

Scores = npt.NDArray[np.float64]
Key = tuple[str, int]
Sums = dict[Key, tuple[Scores, Scores]]


@dataclass(frozen=True)
class CriterionContext:
    """What a criterion may look at.

    Args:
        model: The dense model; never changed.
        groups: Its groups.
        task: The user's task, for criteria that need data; None otherwise.
        seed: Seed of draws and of data order.
        batches: Calibration batches that data-driven criteria use.
        batch_size: Examples of each; None takes the task's own.
        only: Names of the groups whose scores are wanted, None for all; elsewhere the score is 0.
    """

    model: nn.Module
    groups: ModelGroups
    task: Task | None
    seed: int
    batches: int = 4
    batch_size: int | None = None
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
    return require_finite(scores, name, context)


def normalized(scores: Scores, groups: ModelGroups) -> Scores:
    """Return scores divided by their group's mean, so that units of different groups compare; a mean of 0 is left."""
    out = scores.copy()
    for group in groups.groups:
        span = slice(group.start, group.start + group.width)
        mean = float(scores[span].mean())
        if mean != 0.0:
            out[span] = scores[span] / mean
    return out


def reduce(
    context: CriterionContext,
    tensors: Mapping[str, Sequence[Key]],
    entry: Callable[..., Tensor],
    *,
    other: Mapping[str, Tensor] | None = None,
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
    units = units_of(context)
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


def over_groups(
    context: CriterionContext,
    tensors: Mapping[str, Sequence[Key]],
    values: Mapping[Key, Scores],
    *,
    average: bool = True,
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


def units_of(context: CriterionContext) -> dict[Key, npt.NDArray[np.int64]]:
    """Return (parameter, dim) -> [size] unit of every index."""
    return {(d.parameter, d.dim): d.units for d in context.groups.plan.dimensions}


class Drawn(NamedTuple):
    """A calibration batch on the model's device, and the model's inputs from it."""

    batch: Any
    inputs: Inputs


def calibration(context: CriterionContext, name: str) -> Iterator[Drawn]:
    """Yield as many calibration batches as the context asks for.

    Raises:
        ConfigError: There is no task, or it has no calibration data.
    """
    task = context.task
    if task is None:
        raise ConfigError(f"{name} needs a task: data and a loss.", hint="Choose l1, l2 or bn_scale.")
    first = next(context.model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    empty = True
    for drawn in islice(task.batches("calibration", seed=context.seed, batch_size=context.batch_size), context.batches):
        empty = False
        batch = task.move(drawn, device)
        yield Drawn(batch, task.inputs(batch))
    if empty:
        raise ConfigError(f"{name} needs calibration data; batches('calibration') yields nothing.")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Let a model run in eval mode; every module's mode is restored."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def weights(model: nn.Module, group: PruningGroup) -> tuple[Key, ...]:
    """Return the producers that are weights, or all of them where every one is a vector: biases are no evidence."""
    matrices = tuple(key for key in group.producers if model.get_parameter(key[0]).ndim > 1)
    return matrices or group.producers


def require_finite(scores: Scores, name: str, context: CriterionContext) -> Scores:
    """Return the scores, or fail the candidate naming the group.

    Raises:
        CandidateError: A score is not finite.
    """
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
