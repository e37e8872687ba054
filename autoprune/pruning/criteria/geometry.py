"""Criteria of redundancy: how far a unit's weights lie from those of the other units of its group."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from autoprune.groups.types import PruningGroup
from autoprune.pruning.criteria.base import CRITERIA, CriterionContext, Scores, require_finite, units_of, weights


@CRITERIA.register("angle")
def angle(context: CriterionContext) -> Scores:
    """Return 1 - the largest cosine between a unit's weights and those of any unit of larger norm, in [0, 2].

    Of units that point the same way all but the longest score 0, so that duplicates go first and one of them stays
    (filter redundancy by angle, as in Wang et al., COP / CVPR 2019 workshops, and RePr, Prakash et al., CVPR 2019). The
    longest unit scores 2, one without weights 0. Time and memory grow with the square of a group's width.
    """
    return _by_group(context, "angle", _angles)


@CRITERIA.register("geometric_median")
def geometric_median(context: CriterionContext) -> Scores:
    """Return the mean Euclidean distance of a unit's weights from those of its group's other units.

    The units nearest to the geometric median are replaceable by the others (He et al., FPGM, CVPR 2019). Time and
    memory grow with the square of a group's width.
    """
    return _by_group(context, "geometric_median", lambda rows: torch.cdist(rows, rows).sum(1) / max(len(rows) - 1, 1))


def _angles(rows: Tensor) -> Tensor:
    norms = rows.norm(dim=1)
    order = torch.argsort(norms, descending=True, stable=True)
    unit = rows[order] / norms[order].clamp_min(torch.finfo(rows.dtype).tiny)[:, None]
    cosines = (unit @ unit.T).clamp(-1.0, 1.0)
    later = torch.ones_like(cosines).tril(-1).bool()
    found = 1.0 - cosines.masked_fill(~later, -1.0).amax(dim=1)
    found[norms[order] == 0] = 0.0
    out = torch.empty_like(found)
    out[order] = found
    return out


def _by_group(context: CriterionContext, name: str, function: Callable[[Tensor], Tensor]) -> Scores:
    out = np.zeros(context.groups.plan.unit_count)
    for group in context.wanted:
        out[group.start : group.start + group.width] = function(_rows(context, group)).cpu().numpy()
    return require_finite(out, name, context)


def _rows(context: CriterionContext, group: PruningGroup) -> Tensor:
    """Return [width, entries] all producers' weights by unit; 0 where a tensor holds fewer entries of a unit."""
    units, parts = units_of(context), []
    for name, dim in weights(context.model, group):
        weight = context.model.get_parameter(name).detach().double().movedim(dim, 0)
        weight = weight.reshape(len(weight), -1)
        found = units[name, dim] - group.start
        index = np.flatnonzero((found >= 0) & (found < group.width))
        slots = np.zeros(len(index), dtype=np.int64)
        for unit in range(group.width):
            own = found[index] == unit
            slots[own] = np.arange(int(own.sum()))
        part = weight.new_zeros(group.width, int(slots.max(initial=0)) + 1, weight.shape[1])
        part[torch.from_numpy(found[index]), torch.from_numpy(slots)] = weight[torch.from_numpy(index)]
        parts.append(part.reshape(group.width, -1))
    return torch.cat(parts, dim=1)
