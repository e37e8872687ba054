"""Model -> how steady it is: the gradient that each layer receives, and what it does better on training data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.evaluation.types import Interval
from autoprune.tasks.protocol import Task

ROOT = "(model)"


@dataclass(frozen=True)
class Gap:
    """Difference of a metric between two samples (training data - other data), in the metric's own unit.

    Args:
        delta: The difference.
        low: Lower 95% bound.
        high: Upper 95% bound.
    """

    delta: float
    low: float
    high: float


def gap_between(train: Interval, other: Interval) -> Gap:
    """Return train - other with a 95% interval of two independent samples.

    The bounds are recovered from those of the two estimates (Zou and Donner, 2008; Newcombe's for proportions).
    """
    delta = train.value - other.value
    low = delta - math.hypot(train.value - train.low, other.high - other.value)
    high = delta + math.hypot(train.high - train.value, other.value - other.low)
    return Gap(delta, low, high)


def gradient_norms(model: nn.Module, task: Task, *, units: int, seed: int) -> dict[str, float]:
    """Return layer -> L2 norm of the task loss's gradient over the layer's own parameters.

    The loss is that of one batch of `calibration`, of at most `units` units, the same for every model of a seed; the
    model is in eval mode and left as it was, frozen parameters count too. Empty where the loss is not finite.
    """
    batch = next(iter(task.batches("calibration", seed=seed, batch_size=units, limit=units)))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batch = task.move(batch, device)
    leaves = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters() if p.is_floating_point()}
    args, kwargs = task.inputs(batch)
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            loss = task.loss(task.structure(functional_call(model, leaves, args, kwargs)), batch)
            if not math.isfinite(float(loss.detach())):
                return {}
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    finally:
        model.train(was_training)
    return _by_layer(dict(zip(leaves, gradients, strict=True)))


def _by_layer(gradients: dict[str, Tensor | None]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, gradient in gradients.items():
        layer = name.rpartition(".")[0] or ROOT
        own = 0.0 if gradient is None else float(gradient.double().square().sum())
        squares[layer] = squares.get(layer, 0.0) + own
    return {layer: math.sqrt(total) for layer, total in squares.items()}
