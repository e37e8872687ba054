"""Criteria of the weights' own size, and the random control."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.groups.types import PruningGroup
from autoprune.pruning.criteria.base import (
    CRITERIA,
    CriterionContext,
    Key,
    Scores,
    over_groups,
    reduce,
    require_finite,
    weights,
)


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
    means = {key: total / count for key, (total, count) in reduce(context, scales, torch.abs).items()}
    return require_finite(over_groups(context, scales, means), "bn_scale", context)


@CRITERIA.register("lamp")
def lamp(context: CriterionContext) -> Scores:
    """Return a unit's squared size over the sum of those of its group that are no smaller (Lee et al., ICLR 2021).

    The order within a group is that of l2; between groups the scores compare, and every group's largest unit has 1.
    """
    sizes = np.square(l2(context))
    out = np.zeros_like(sizes)
    for group in context.wanted:
        span = slice(group.start, group.start + group.width)
        out[span] = layer_adaptive(sizes[span])
    return out


def layer_adaptive(sizes: Scores) -> Scores:
    """Return [n] squared sizes, each over the sum of all that are no smaller; of equal ones each counts all."""
    order = np.argsort(-sizes, kind="stable")
    ordered = sizes[order]
    last = np.searchsorted(-ordered, -ordered, side="right") - 1
    total = np.cumsum(ordered)[last]
    out = np.empty_like(sizes)
    out[order] = np.divide(ordered, total, out=np.zeros_like(ordered), where=total > 0.0)
    return out


@CRITERIA.register("random")
def random(context: CriterionContext) -> Scores:
    """Return a uniform draw in [0, 1) for every unit: the control."""
    return np.random.default_rng(context.seed).random(context.groups.plan.unit_count)


def _magnitude(
    context: CriterionContext, name: str, entry: Callable[[Tensor], Tensor], finish: Callable[[Scores], Scores]
) -> Scores:
    """Average `finish(mean of entry(weight))` of a unit's rows over its group's producing tensors."""
    tensors = {g.name: weights(context.model, g) for g in context.wanted}
    means = {key: finish(total / count) for key, (total, count) in reduce(context, tensors, entry).items()}
    return require_finite(over_groups(context, tensors, means), name, context)


def _scales(model: nn.Module, group: PruningGroup) -> tuple[Key, ...]:
    return tuple(
        (f"{n}.weight", 0) for n in group.batch_norms if getattr(model.get_submodule(n), "weight", None) is not None
    )
