"""Criteria -> scores of any state of one model: of units, of single weights and of modules; the dense ones are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from autoprune.axes import AXES
from autoprune.compatibility import can_rank
from autoprune.groups.types import ModelGroups, Part
from autoprune.pruning.criteria import CriterionContext, importance
from autoprune.pruning.criteria.parts import part_importance
from autoprune.pruning.criteria.weights import weight_importance
from autoprune.tasks.protocol import Task

MEASURED_UNITS = 128
"""Examples on which the loss is measured anew for every single unit that is left out."""

Scores = npt.NDArray[np.float64]


class Grader:
    """Scores by name, for one run's seed.

    Args:
        dense: The prepared dense model: what is scored on it is kept, unless it is drawn.
        groups: Its groups.
        task: The user's task.
        seed: The run's seed, for the order of data.
    """

    def __init__(self, dense: nn.Module, groups: ModelGroups, task: Task, seed: int) -> None:
        self.dense = dense
        self._groups = groups
        self._task = task
        self._seed = seed
        self._units: dict[str, Scores] = {}
        self._weights: dict[str, dict[str, Tensor]] = {}
        self._parts: dict[tuple[str, str], Scores] = {}

    def units(self, criterion: str, model: nn.Module, seed: int) -> Scores:
        """Return [unit_count] importance of units; a stochastic criterion draws by `seed`."""
        drawn = AXES["criterion"][criterion].stochastic
        if drawn or model is not self.dense:
            return self._unit_scores(criterion, model, seed if drawn else self._seed)
        if criterion not in self._units:
            self._units[criterion] = self._unit_scores(criterion, model, self._seed)
        return self._units[criterion]

    def weights(self, criterion: str, model: nn.Module, seed: int, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the importance of every entry of some weights; a stochastic criterion draws by `seed`."""
        drawn = AXES["criterion"][criterion].stochastic
        if drawn or model is not self.dense:
            return weight_importance(criterion, self._context(model, seed if drawn else self._seed), names)
        known = self._weights.setdefault(criterion, {})
        missing = [name for name in names if name not in known]
        if missing:
            known |= weight_importance(criterion, self._context(model, self._seed), missing)
        return {name: known[name] for name in names}

    def part(self, criterion: str, part: Part, seed: int) -> Scores:
        """Return [width] importance of the members of a part, on the dense model."""
        if AXES["criterion"][criterion].stochastic:
            return part_importance(criterion, self._context(self.dense, seed), part)
        key = criterion, part.name
        if key not in self._parts:
            self._parts[key] = part_importance(criterion, self._context(self.dense, self._seed), part)
        return self._parts[key]

    def _unit_scores(self, criterion: str, model: nn.Module, seed: int) -> Scores:
        able = tuple(g.name for g in self._groups.groups if can_rank(g, criterion))
        context = CriterionContext(model, self._groups, self._task, seed, only=able)
        if criterion == "contribution":
            context = replace(context, batches=1, batch_size=MEASURED_UNITS)
        return importance(criterion, context)

    def _context(self, model: nn.Module, seed: int) -> CriterionContext:
        return CriterionContext(model, self._groups, self._task, seed)
