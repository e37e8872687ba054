"""Scores of single weights -> masks: which entries of a tensor stay, and holding the others at zero while training.

No shape changes and nothing gets faster by itself: kernels that use the zeros are the target's affair.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.axes import MASKED
from autoprune.errors import ConfigError, GroupError
from autoprune.registry import unknown_name

GROUP = 4
"""Neighbouring weights of an N:M pattern."""

BLOCK = 4
"""Outputs, and inputs, of a block."""


def mask_of(granularity: str, scores: Tensor, sparsity: float) -> Tensor:
    """Return which entries of a weight stay: a boolean tensor of its shape, on its device.

    What stays at one sparsity stays at every lower one. Of equal scores the earlier stays.

    - `weight`: the best round(n (1 - sparsity)) of n entries, at least one.
    - `n_m`: of every four neighbours the best round(4 (1 - sparsity)), at least one: 2 of 4 at 0.5 (Mishra et al.,
      2021). Neighbours lie side by side in a row [in] of a linear weight [out, in], and in a row [k * k * in], input
      channel fastest, of a convolution's [out, in, k, k]: sparse tensor cores, and torch's semi-structured kernels,
      want groups along the dimension that the product sums over, and that is its order for channels-last convolutions.
      What a row has beyond a multiple of four stays dense.
    - `block`: of the blocks of 4 outputs by 4 inputs, of a convolution at each kernel position, the best
      round(n (1 - sparsity)) of n blocks, at least one, by the mean of their entries (Gray et al., 2017). Blocks at the
      edges are smaller, so that the share of zeros may differ from the sparsity.

    Args:
        granularity: `weight`, `n_m` or `block`.
        scores: [out, in, ...] finite, higher = keep; any shape for `weight`.
        sparsity: Share of entries, of every four or of blocks that goes, in [0, 1).

    Raises:
        UnknownNameError: Another granularity.
        ConfigError: The sparsity is out of range, or a vector is to have a pattern.
    """
    if not 0.0 <= sparsity < 1.0:
        raise ConfigError(f"The sparsity of a mask must lie in [0, 1). Got {sparsity}.")
    _check(granularity, scores)
    if granularity == "n_m":
        return _n_m_mask(scores, max(1, round(GROUP * (1.0 - sparsity))))
    ranked = ranked_entries(granularity, scores)
    kept = torch.zeros(ranked.numel(), dtype=torch.bool, device=scores.device)
    kept[_order(ranked)[: max(1, round(ranked.numel() * (1.0 - sparsity)))]] = True
    return spread(granularity, kept, scores.shape)


def ranked_entries(granularity: str, scores: Tensor) -> Tensor:
    """Return [n] scores of what a granularity keeps or drops whole: entries of `weight`, means of each `block`."""
    _check(granularity, scores)
    return scores.reshape(-1) if granularity == "weight" else _block_means(scores).reshape(-1)


def spread(granularity: str, kept: Tensor, shape: torch.Size) -> Tensor:
    """Return the mask of a tensor's shape from one flag for each of `ranked_entries`."""
    if granularity == "weight":
        return kept.reshape(shape)
    outputs, inputs = (-(-size // BLOCK) for size in shape[:2])
    blocks = kept.reshape(-1, outputs, inputs)
    whole = blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, : shape[0], : shape[1]]
    return whole.permute(1, 2, 0).reshape(shape)


def pattern_holds(granularity: str, tensor: Tensor, keep: int = 2) -> bool:
    """Tell whether a weight's zeros have the pattern of a granularity.

    `n_m`: no four neighbours (see `mask_of`) have more than `keep` that are not zero. `block`: every zero lies in a
    block of zeros. `weight`: zeros may lie anywhere.
    """
    _check(granularity, tensor)
    zero = tensor.detach() == 0
    if granularity == "n_m":
        fours, _ = _fours(~zero)
        return bool((fours.sum(-1) <= keep).all())
    if granularity == "block":
        blocks = _block_means(zero.double()) == 1.0
        return bool(torch.equal(spread("block", blocks.reshape(-1), zero.shape), zero))
    return True


class MaskHolder:
    """Keeps entries of a model's weights at zero; a `RecoverContext.on_step` hook.

    Called after every optimizer step, for momentum and weight decay go on moving what the gradient leaves alone.

    Args:
        masks: Parameter name -> boolean mask of its shape, True = kept.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)
        self._dropped: dict[tuple[str, torch.device], Tensor] = {}

    def __call__(self, model: nn.Module, step: int) -> None:
        """Apply the masks after an optimizer step; the step's number does not matter."""
        del step
        self.apply(model)

    def apply(self, model: nn.Module) -> None:
        """Set every masked entry to zero, in place, on whatever device the weights lie.

        Raises:
            GroupError: A weight has another shape than its mask.
        """
        with torch.no_grad():
            for name in self.masks:
                weight = self._weight(model, name)
                weight.masked_fill_(self._on(name, weight.device), 0.0)

    def zeros(self, model: nn.Module) -> dict[str, int]:
        """Return how many entries of every held weight are zero, masked or not."""
        return {name: int((self._weight(model, name) == 0).sum()) for name in self.masks}

    def holds(self, model: nn.Module) -> bool:
        """Tell whether every masked entry is zero."""
        return all(
            not bool(weight[self._on(name, weight.device)].any())
            for name, weight in ((name, self._weight(model, name).detach()) for name in self.masks)
        )

    def merged(self, other: MaskHolder) -> MaskHolder:
        """Return a holder of both: of a weight that both hold, what both keep stays."""
        both = {
            name: mask & other.masks[name].to(mask.device) for name, mask in self.masks.items() if name in other.masks
        }
        return MaskHolder({**self.masks, **other.masks, **both})

    def _on(self, name: str, device: torch.device) -> Tensor:
        """Return where a weight is to be zero, on its device."""
        if (name, device) not in self._dropped:
            self._dropped[name, device] = (~self.masks[name]).to(device)
        return self._dropped[name, device]

    def _weight(self, model: nn.Module, name: str) -> Tensor:
        weight = model.get_parameter(name)
        if weight.shape != self.masks[name].shape:
            raise GroupError(
                f"The mask of {name!r} has shape {tuple(self.masks[name].shape)}; the weight has "
                f"{tuple(weight.shape)}.",
                hint="Mask a weight or cut channels out of it, not both.",
            )
        return weight


def _check(granularity: str, tensor: Tensor) -> None:
    if granularity not in MASKED:
        raise unknown_name("granularity of masks", granularity, list(MASKED))
    if granularity != "weight" and tensor.ndim < 2:
        raise ConfigError(
            f"The granularity {granularity!r} needs a weight [outputs, inputs, ...]. Got shape {tuple(tensor.shape)}.",
            hint="Mask vectors by granularity weight, or leave them out.",
        )


def _order(scores: Tensor) -> Tensor:
    """Return the last dimension's indices, best first, of equal ones the earlier first."""
    return torch.argsort(scores, dim=-1, descending=True, stable=True)


def _fours(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return [out, n, 4] neighbours of a weight's rows, input channel fastest, and [out, rest] what is left over."""
    rows = tensor.movedim(1, -1).reshape(len(tensor), -1)
    whole = rows.shape[1] - rows.shape[1] % GROUP
    return rows[:, :whole].reshape(len(tensor), -1, GROUP), rows[:, whole:]


def _n_m_mask(scores: Tensor, keep: int) -> Tensor:
    fours, rest = _fours(scores)
    kept = torch.zeros(fours.shape, dtype=torch.bool, device=scores.device)
    kept.scatter_(-1, _order(fours)[..., :keep], torch.ones_like(kept))
    rows = torch.cat([kept.reshape(len(scores), -1), torch.ones_like(rest, dtype=torch.bool)], dim=1)
    return rows.reshape(scores.movedim(1, -1).shape).movedim(-1, 1).contiguous()


def _block_means(values: Tensor) -> Tensor:
    """Return [positions, blocks of outputs, blocks of inputs] the mean of each block's own entries."""
    positions = values.reshape(*values.shape[:2], -1).permute(2, 0, 1)[:, None]
    return F.avg_pool2d(positions.double(), BLOCK, ceil_mode=True, count_include_pad=False)[:, 0]
