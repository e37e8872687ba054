"""The measured contribution of every unit: what the loss becomes without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.groups.cloning import clone_model, named_tensors
from autoprune.groups.slicing import Slicer
from autoprune.groups.types import NO_UNIT
from autoprune.pruning.criteria.base import (
    CRITERIA,
    CriterionContext,
    Drawn,
    Scores,
    calibration,
    eval_mode,
    require_finite,
)

Place = tuple[str, int, Tensor]


@CRITERIA.register("contribution")
def contribution(context: CriterionContext) -> Scores:
    """Return by how much the loss rises when a unit alone is cut out, on calibration batches; negative where it falls.

    Leave-one-out, exactly (skeletonization: Mozer and Smolensky, NIPS 1988). A forward pass a batch for every unit,
    which is masked where that equals slicing: by far the dearest criterion. The only unit of a group cannot leave and
    scores 0.

    Raises:
        ConfigError: There is no task or no calibration data.
        CandidateError: A loss is not finite.
    """
    batches = list(calibration(context, "contribution"))
    slicer = Slicer(context.model, context.groups.plan)
    whole = mean_loss(context, context.model, batches)
    out = np.zeros(context.groups.plan.unit_count)
    places, model = _places(context), clone_model(context.model, {})
    for group in context.wanted:
        for unit in range(group.start, group.start + group.width if group.width > 1 else group.start):
            if group.exact_masking and not context.groups.plan.grouped:
                with _without(model, places[unit]):
                    out[unit] = mean_loss(context, model, batches) - whole
            else:
                alive = np.ones(len(out), dtype=bool)
                alive[unit] = False
                out[unit] = mean_loss(context, slicer.slice(alive), batches) - whole
    return require_finite(out, "contribution", context)


def _places(context: CriterionContext) -> list[list[Place]]:
    """Return for every unit the (tensor, dimension, indices) that are its own."""
    places: list[list[Place]] = [[] for _ in range(context.groups.plan.unit_count)]
    for dimension in context.groups.plan.dimensions:
        for unit in np.unique(dimension.units[dimension.units != NO_UNIT]):
            index = torch.from_numpy(np.flatnonzero(dimension.units == unit))
            places[unit].append((dimension.parameter, dimension.dim, index))
    return places


@contextmanager
def _without(model: nn.Module, places: Sequence[Place]) -> Iterator[None]:
    """Let everything of a unit be zero, which equals cutting it out where no statistic runs over units."""
    tensors = named_tensors(model)
    with torch.no_grad():
        found = [(tensors[name], dim, index.to(tensors[name].device)) for name, dim, index in places]
        kept = [(tensor, dim, index, tensor.index_select(dim, index)) for tensor, dim, index in found]
        for tensor, dim, index, _ in kept:
            tensor.index_fill_(dim, index, 0)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, dim, index, before in kept:
                tensor.index_copy_(dim, index, before)


def mean_loss(context: CriterionContext, model: nn.Module, batches: Sequence[Drawn]) -> float:
    """Return the mean loss of a model in eval mode over drawn batches."""
    task = context.task
    assert task is not None
    with eval_mode(model), torch.no_grad():
        answers = [(model(*drawn.inputs.args, **drawn.inputs.kwargs), drawn.batch) for drawn in batches]
        found = [task.loss(task.structure(outputs), batch) for outputs, batch in answers]
    return float(np.mean([float(value) for value in found]))
