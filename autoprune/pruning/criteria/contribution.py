"""The measured contribution of every unit: what the loss becomes without it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autoprune.groups.slicing import Slicer
from autoprune.pruning.criteria.base import CRITERIA, CriterionContext, Scores, calibration, eval_mode, require_finite


@CRITERIA.register("contribution")
def contribution(context: CriterionContext) -> Scores:
    """Return by how much the loss rises when a unit alone is cut out, on calibration batches; negative where it falls.

    Leave-one-out, exactly (skeletonization: Mozer and Smolensky, NIPS 1988). One slicing and a forward pass a batch for
    every unit: by far the dearest criterion. The only unit of a group cannot leave and scores 0.

    Raises:
        ConfigError: There is no task or no calibration data.
        CandidateError: A loss is not finite.
    """
    batches = list(calibration(context, "contribution"))
    task, slicer = context.task, Slicer(context.model, context.groups.plan)
    assert task is not None

    def loss(model: nn.Module) -> float:
        with eval_mode(model), torch.no_grad():
            answers = [(model(*drawn.inputs.args, **drawn.inputs.kwargs), drawn.batch) for drawn in batches]
            found = [task.loss(task.structure(outputs), batch) for outputs, batch in answers]
        return float(np.mean([float(value) for value in found]))

    whole = loss(context.model)
    out = np.zeros(context.groups.plan.unit_count)
    for group in context.wanted:
        for unit in range(group.start, group.start + group.width if group.width > 1 else group.start):
            alive = np.ones(len(out), dtype=bool)
            alive[unit] = False
            out[unit] = loss(slicer.slice(alive)) - whole
    return require_finite(out, "contribution", context)
