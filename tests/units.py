"""Which units stay, and what a model then answers: shared by the tests of groups and slicing."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from zoo import ZOO, image

from autoprune.groups import ModelGroups, find_groups
from autoprune.groups.fallback import find_groups_fallback
from autoprune.tasks.protocol import Inputs

LARGE = ("resnet50", "resnext50", "mobilenetv2")


@cache
def built(name: str) -> tuple[nn.Module, Inputs]:
    """Build a zoo model once; tests must not change it. Large nets get small images."""
    model, inputs = ZOO[name]()
    return model, image(64, batch=1) if name in LARGE else inputs


@cache
def traced(name: str) -> ModelGroups:
    return find_groups(*built(name))


@cache
def traced_by_torch_pruning(name: str) -> ModelGroups:
    return find_groups_fallback(*built(name))


def random_alive(groups: ModelGroups, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Keep a random 20-100% of every group, at least one unit."""
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    for group in groups.groups:
        removed = rng.integers(0, max(1, int(group.width * 0.8)) + 1) if group.width > 1 else 0
        alive[group.start + rng.choice(group.width, min(removed, group.width - 1), replace=False)] = False
    return alive


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the output tensors of a model in order."""
    with torch.no_grad():
        return flat(model(*inputs.args, **inputs.kwargs))


def flat(outputs: object) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    assert isinstance(outputs, list | tuple)
    return [tensor for part in outputs for tensor in flat(part)]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
