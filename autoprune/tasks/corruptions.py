"""Batch of images -> the same batch corrupted: noise and blur of several strengths, for `Task.corruptions`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.tasks.base import map_tensors

Corruption = Callable[[Any], Any]
REACH = 3.0


def image_corruptions(
    *, noise: Sequence[float] = (0.25, 0.5, 1.0), blur: Sequence[float] = (0.5, 1.0, 2.0), seed: int = 0
) -> Mapping[str, Corruption]:
    """Return name -> corruption, such as `noise_0.5` and `blur_1`, mildest first.

    A corruption takes a batch or `Inputs` and returns it with every [n, c, h, w] floating-point tensor in it
    changed; labels and boxes stay. The same batch gives the same result.

    Args:
        noise: Standard deviations of the noise, in the unit of the inputs, which networks see normalised to about 1.
        blur: Standard deviations of the blur, pixels.
        seed: Of the noise.

    Raises:
        TaskError: A strength is not positive and finite.
    """
    for strength in (*noise, *blur):
        if not 0.0 < strength < math.inf:
            raise TaskError(f"The strength of a corruption must be positive and finite. Got {strength}.")
    found: dict[str, Corruption] = {}
    for sigma in sorted(noise):
        found[f"noise_{sigma:g}"] = partial(_on_images, partial(add_noise, sigma=sigma, seed=seed))
    for sigma in sorted(blur):
        found[f"blur_{sigma:g}"] = partial(_on_images, partial(gaussian_blur, sigma=sigma))
    return found


def add_noise(images: Tensor, *, sigma: float, seed: int) -> Tensor:
    """Return [n, c, h, w] images with Gaussian noise of standard deviation `sigma`, drawn anew from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator)
    return images + sigma * noise.to(images.device, images.dtype)


def gaussian_blur(images: Tensor, *, sigma: float) -> Tensor:
    """Return [n, c, h, w] images blurred by a Gaussian of `sigma` pixels, cut off at 3 sigma; edges are repeated."""
    reach = max(1, math.ceil(REACH * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    weights = torch.exp(-offsets.square() / (2.0 * sigma**2))
    weights = weights / weights.sum()
    channels = images.shape[1]
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, weights.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(rows, weights.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)


def _on_images(change: Callable[[Tensor], Tensor], batch: Any) -> Any:
    def changed(tensor: Tensor) -> Tensor:
        return change(tensor) if tensor.ndim == 4 and tensor.is_floating_point() else tensor

    return map_tensors(batch, changed)
