"""Model -> independent copy, also of one whose weights are computed by hooks."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn


def copied(model: nn.Module) -> nn.Module:
    """Return what `copy.deepcopy` does, for models too that hold tensors which autograd made.

    `torch.nn.utils.weight_norm`, `spectral_norm` and `prune` leave such a tensor on the module after a forward pass;
    the hook that made it makes it again, so the copy holds its values alone.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)
