"""Hard-concrete gates: every unit has a random gate that training opens or closes, under a budget of open ones.

Louizos, Welling and Kingma, Learning Sparse Neural Networks through L0 Regularization, ICLR 2018. Their multiplier of
the L0 norm is here the one that makes the expected number of open gates equal to a target that falls from all to the
budget: a common shift of the gates' logits, found by bisection after every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autoprune.groups.types import NO_UNIT, ModelGroups, PruningGroup

STRETCH = (-0.1, 1.1)
TEMPERATURE = 2.0 / 3.0
TRAVEL = 6.0
CLOSED_BY = 0.8
_OPEN_LOGIT = TEMPERATURE * math.log(-STRETCH[0] / STRETCH[1])
_EDGE = 1e-6

Scores = npt.NDArray[np.float64]


class Gates:
    """The gates of a model's units, learned while it trains.

    The gates' logits have an optimizer of their own (Adam), so that any training loop will do: call `after_step` after
    each of its steps.

    Args:
        model: Changed in place: weights are multiplied by their gates until `bake` is called.
        groups: All groups with the plan.
        pools: Groups whose units have gates; one budget, the mean over their units, holds for each pool.
        open_share: Group -> share in (0, 1] of its units that should be open in the end.
        steps: Optimizer steps, >= 1.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: ModelGroups,
        pools: Sequence[Sequence[PruningGroup]],
        *,
        open_share: Mapping[str, float],
        steps: int,
        seed: int,
    ) -> None:
        self._model = model
        self._pools = pools
        self._searched = [group for pool in pools for group in pool]
        self._open_share = open_share
        self._steps = steps
        device = next(model.parameters()).device
        self._generator = torch.Generator().manual_seed(seed)
        start = 0.01 * torch.randn(groups.plan.unit_count, generator=self._generator)
        self.logits = start.to(device).requires_grad_()
        self._shift = torch.zeros_like(start)
        self._optimizer = torch.optim.Adam([self.logits], lr=TRAVEL / steps)
        self._drawn = torch.ones_like(start)
        self._names: list[tuple[nn.Module, str]] = []
        self._attach(groups)
        self._hook = model.register_forward_pre_hook(lambda *_: self._draw())
        self._meet_budget(0)

    def after_step(self, model: nn.Module, step: int) -> None:
        """Move the logits by their gradient, then shift them to the budget of this step, counted from 0."""
        del model
        if self.logits.grad is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self._meet_budget(step + 1)

    def open_chance(self) -> Scores:
        """Return [unit_count] the probability that a gate is not closed: what the expected L0 norm sums."""
        return self._chance(self.logits.detach().cpu() + self._shift).double().numpy()

    def scores(self) -> Scores:
        """Return [unit_count] the gates' logits, by which units stay."""
        return (self.logits.detach().cpu() + self._shift).double().numpy()

    def bake(self) -> None:
        """Multiply the weights by the gates' noiseless values and take the gates away."""
        self._model.eval()
        with torch.no_grad():
            self._draw()
            for module, name in self._names:
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        self._hook.remove()

    def _draw(self) -> None:
        logits = self.logits + self._shift.to(self.logits.device)
        if self._model.training:
            noise = torch.rand(logits.shape, generator=self._generator).clamp(_EDGE, 1.0 - _EDGE).to(logits.device)
            logits = (torch.logit(noise) + logits) / TEMPERATURE
        low, high = STRETCH
        self._drawn = (torch.sigmoid(logits) * (high - low) + low).clamp(0.0, 1.0)

    def _attach(self, groups: ModelGroups) -> None:
        units = {(d.parameter, d.dim): d.units for d in groups.plan.dimensions}
        # BatchNorm undoes the factor on the layer before it, in value and gradient: what is left is that on its scale.
        for key in dict.fromkeys(key for g in self._searched for key in g.producers):
            module = self._model.get_submodule(key[0].rpartition(".")[0])
            name = key[0].rpartition(".")[2]
            searched = np.isin(units[key], _units_of(self._searched))
            gate = _Gate(self, np.where(searched, units[key], NO_UNIT), key[1])
            parametrize.register_parametrization(module, name, gate, unsafe=True)
            self._names.append((module, name))

    def _meet_budget(self, step: int) -> None:
        """Shift the logits so that the expected share of open gates is the budget's at a step."""
        progress = min(1.0, step / max(1.0, CLOSED_BY * self._steps))
        logits = self.logits.detach().cpu()
        for pool in self._pools:
            units = torch.from_numpy(_units_of(pool))
            count = sum(g.width for g in pool)
            share = sum(g.width * self._open_share[g.name] for g in pool) / count
            wanted = min(1.0 - (1.0 - share) * progress, 1.0 - 1.0 / (4 * count))
            low, high = -40.0, 40.0
            for _ in range(50):
                middle = (low + high) / 2
                if float(self._chance(logits[units] + middle).mean()) < wanted:
                    low = middle
                else:
                    high = middle
            self._shift[units] = high

    @staticmethod
    def _chance(logits: Tensor) -> Tensor:
        return torch.sigmoid(logits - _OPEN_LOGIT)

    def value_at(self, units: Tensor) -> Tensor:
        """Return the drawn gates of some units, 1 for `NO_UNIT`."""
        padded = torch.cat([self._drawn, self._drawn.new_ones(1)])
        return padded[units.to(padded.device)]


class _Gate(nn.Module):
    """Multiplies a weight by the gates of its units."""

    def __init__(self, gates: Gates, units: npt.NDArray[np.int64], dim: int) -> None:
        super().__init__()
        self._value_at: Callable[[Tensor], Tensor] = gates.value_at
        self._units = torch.from_numpy(units)
        self._dim = dim

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight of the same shape."""
        shape = [1] * weight.ndim
        shape[self._dim] = -1
        return weight * self._value_at(self._units).to(weight.device).reshape(shape)


def _units_of(groups: Sequence[PruningGroup]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.arange(g.start, g.start + g.width) for g in groups])
