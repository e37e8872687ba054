"""Deployed model: the `Session` contract, and the mapping of torch inputs and outputs to flat arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.errors import CandidateError
from autoprune.tasks.protocol import Inputs

PARITY_TOLERANCE = 1e-4
Array = npt.NDArray[Any]


class Session(Protocol):
    """A model in its deployed form."""

    runtime_version: str

    def run(self, inputs: Inputs) -> Any:
        """Return the outputs as torch tensors, in the structure of the torch model's outputs."""
        ...

    def call(self, inputs: Inputs) -> Callable[[], None]:
        """Return one forward pass as a zero-argument call whose inputs are already converted, for timing."""
        ...


def tensor_leaves(structure: Any) -> list[Tensor]:
    """Return the tensors of a nested structure in order."""
    return [leaf for leaf in pytree.tree_leaves(structure) if isinstance(leaf, Tensor)]


def feed(inputs: Inputs, names: Sequence[str]) -> dict[str, Array]:
    """Return arrays per graph input: keyword tensors by name where names agree, all others by position.

    Raises:
        CandidateError: The number of tensors differs from the number of graph inputs.
    """
    by_name = {key: value for key, value in inputs.kwargs.items() if isinstance(value, Tensor) and key in names}
    others = {key: value for key, value in inputs.kwargs.items() if key not in by_name}
    rest = [name for name in names if name not in by_name]
    positional = tensor_leaves((inputs.args, others))
    if len(positional) != len(rest):
        message = f"The graph takes {len(names)} tensors {list(names)}; given {len(positional) + len(by_name)}."
        raise CandidateError(message, reason="error", stage="quality")
    tensors = {**by_name, **dict(zip(rest, positional, strict=True))}
    return {name: np.ascontiguousarray(tensors[name].detach().cpu().numpy()) for name in names}


@dataclass(frozen=True)
class OutputForm:
    """How flat outputs become the structure that the torch model returns."""

    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]

    @classmethod
    def of(cls, outputs: Any) -> OutputForm:
        """Remember the structure of a torch model's outputs; leaves that are no tensors are kept as they are."""
        leaves, spec = pytree.tree_flatten(outputs)
        return cls(spec, tuple(None if isinstance(leaf, Tensor) else _Constant(leaf) for leaf in leaves))

    def build(self, arrays: Iterable[Array]) -> Any:
        """Return the structure with `arrays` as its tensors."""
        flow = iter(arrays)
        leaves = [leaf.value if isinstance(leaf, _Constant) else torch.from_numpy(next(flow)) for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)


@dataclass(frozen=True)
class _Constant:
    value: Any


def reference_outputs(model: nn.Module, example: Inputs) -> Any:
    """Return the outputs of the torch model in eval mode."""
    model.eval()
    with torch.inference_mode():
        return model(*example.args, **example.kwargs)


def parity(reference: Any, outputs: Any) -> float:
    """Return the largest absolute difference of two outputs, each tensor relative to its own largest magnitude.

    Not-a-number in either, or another shape or number of tensors, gives infinity.
    """
    wanted, given = tensor_leaves(reference), tensor_leaves(outputs)
    if [t.shape for t in wanted] != [t.shape for t in given]:
        return float("inf")
    worst = 0.0
    for left, right in zip(wanted, given, strict=True):
        if left.numel() == 0:
            continue
        difference = float((left.double() - right.double()).abs().max())
        scale = float(left.double().abs().max())
        relative = difference / scale if scale > 0 else difference
        worst = max(worst, relative if np.isfinite(relative) else float("inf"))
    return worst
