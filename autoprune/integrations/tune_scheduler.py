"""Intermediate results of Tune's trials -> which go on: successive halving by two objectives at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from autoprune.integrations.tune_results import ITERATION
from autoprune.search.rungs import RungPoint, is_poor


class FrontScheduler(FIFOScheduler):
    """Stops a trial that lies behind the front of those which have reported at the same iteration.

    `ASHAScheduler` compares one metric, and so prefers what is hardly pruned; this one weighs it against a cost, as
    the search's own rungs do.

    Args:
        metric: The quality in the results.
        mode: `max` or `min`: which way it is better.
        cost: What is to be small as well.
        reduction: One trial in so many passes for sure; none is stopped before twice as many have reported.
    """

    def __init__(
        self, metric: str = "accuracy", mode: Literal["max", "min"] = "max", *, cost: str = "macs", reduction: int = 2
    ) -> None:
        begin: Callable[[], None] = super().__init__  # which Tune leaves without types
        begin()
        self._quality = metric
        self._sign = -1.0 if mode == "max" else 1.0
        self._cost = cost
        self._reduction = reduction
        self._points: dict[int, list[RungPoint]] = defaultdict(list)

    def on_trial_result(self, tune_controller: object, trial: Trial, result: Mapping[str, Any]) -> str:
        """Return whether a trial goes on after a result."""
        del tune_controller, trial
        step = int(result[ITERATION])
        point = RungPoint(step, self._sign * float(result[self._quality]), float(result[self._cost]))
        if not (math.isfinite(point.value) and math.isfinite(point.macs)):
            return self.STOP
        rivals = self._points[step]
        poor = is_poor(point, rivals, self._reduction)
        rivals.append(point)
        return self.STOP if poor else self.CONTINUE
