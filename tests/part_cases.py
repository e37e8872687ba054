"""Made-up models with structural groups and parts, and spaces over every axis, for the tests of conditional spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autoprune.groups.types import DimensionUnits, ModelGroups, Part, PruningGroup, SlicingPlan
from autoprune.space import BoundSpace, SearchSpace

EVERYTHING: Mapping[str, Any] = {
    "criterion": {"choices": ["l1", "lamp", "taylor"]},
    "normalization": {"choices": ["none", "mean"]},
    "scope": {"choices": ["per_group", "local", "global"]},
    "selection": {"choices": ["top_k", "greedy", "stochastic"]},
    "recovery": {"choices": ["recalibrate", "fine_tune", "distillation"]},
    "schedule": {"choices": ["one_shot", "iterative", "cubic", "dynamic"]},
    "regularizer": {"choices": ["none", "l1", "growing_l2", "hard_concrete"]},
    "regrowth": {"choices": ["none", "gradient"]},
    "optimizer": {"choices": ["sgd", "adamw"]},
    "learning_rate": {"low": 0.01, "high": 0.1},
    "recovery_steps": {"choices": [10, 20]},
    "batch_size": {"choices": [16, 64]},
    "strength": {"low": 1e-4, "high": 1e-2},
    "rounds": {"choices": [3, 5]},
    "tolerance": {"low": 0.05, "high": 0.2, "log": False},
    "amount": {"choices": [0.2, 0.4, 0.6]},
}
WEIGHTS = (
    Part("layer0.weight", "tensor", ("layer0.weight",), 16 * 9, (16, 9)),
    *(Part(f"layer{i}.weight", "tensor", (f"layer{i}.weight",), 20 * 24, (20, 24)) for i in (3, 4)),
)
MODULES = (
    Part("@depth", "depth", ("block0", "block1", "block2", "block3"), 4),
    Part("@activation", "activation", ("relu0", "relu1", "relu2"), 3),
    Part("@norm", "norm", ("bn0", "bn1"), 2),
    Part("@bias", "bias", ("fc.bias",), 1),
)


def model(norms: tuple[bool, ...] = (True, False, True)) -> ModelGroups:
    """Return a channel group, a group of heads and a feed-forward group, three weights and four kinds of modules."""
    widths, kinds = (16, 4, 24), ("channel", "head", "channel")
    starts = np.cumsum([0, *widths])
    groups = tuple(
        PruningGroup(
            f"layer{i}",
            int(starts[i]),
            widths[i],
            kinds[i],
            ((f"layer{i}.weight", 0),),
            ("bn",) if norms[i] else (),
            feed_forward=i == 2,
        )
        for i in range(3)
    )
    cut = tuple(DimensionUnits(f"layer{i}.weight", 0, np.arange(starts[i], starts[i + 1])) for i in range(3))
    return ModelGroups(groups, (), SlicingPlan(int(starts[-1]), cut), "torch.export", parts=(*WEIGHTS, *MODULES))


def declared(*granularity: str, **strategy: Any) -> SearchSpace:
    """Return a space of some kinds of groups."""
    return SearchSpace.model_validate(
        {
            "name": "made",
            "description": "-",
            "granularity": list(granularity),
            "sparsity": {"round_to": 1, "max_levels": 5},
            "strategy": strategy,
        }
    )


def bound(*granularity: str, **strategy: Any) -> BoundSpace:
    return declared(*granularity, **strategy).bind(model())
