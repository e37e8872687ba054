"""Masked weights -> whether their zeros stand where their pattern wants them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from autoprune.errors import ArtifactError

BLOCK = 4
MOST = 2


def is_two_of_four(weight: Tensor) -> bool:
    """Tell whether every four neighbours of a row hold at most two that are not zero.

    Rows are the entries of the first dimension, input channel fastest, as `pruning.masks` makes them; what is left over
    after the last whole four may be anything (Mishra et al., Accelerating Sparse Deep Neural Networks, 2021).

    Args:
        weight: [rows, channels, ...].
    """
    rows = weight.detach().movedim(1, -1).reshape(len(weight), -1)
    whole = rows.shape[1] - rows.shape[1] % BLOCK
    fours = rows[:, :whole].reshape(len(rows), -1, BLOCK)
    return bool(((fours != 0).sum(dim=-1) <= MOST).all())


def check_zeros(model: nn.Module, masks: Mapping[str, str]) -> None:
    """Check the pattern of every tensor that a plan says to be 2 of 4; tensors that edits took away are passed over.

    A transposed convolution stores its inputs first; either dimension may be its rows.

    Raises:
        ArtifactError: Naming the first tensor whose pattern does not hold.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, granularity in masks.items():
        weight = parameters.get(name)
        if granularity != "n_m" or weight is None:
            continue
        transposed = isinstance(model.get_submodule(name.rpartition(".")[0]), _ConvTransposeNd)
        if not is_two_of_four(weight) and not (transposed and is_two_of_four(weight.transpose(0, 1))):
            raise ArtifactError(
                f"{name!r} has more than {MOST} of {BLOCK} neighbouring weights that are not zero, against its plan.",
                hint="The weights are not those that the plan was written for; take the directory from its source.",
            )
