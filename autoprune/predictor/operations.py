"""Model + one example -> its multiply-accumulates, operation by operation, and how they follow the widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from autoprune.runtimes.counting import countable
from autoprune.tasks.protocol import Inputs

EXPONENT_STEP = 0.05


@dataclass(frozen=True)
class Operation:
    """One convolution or matrix product of a forward pass.

    Args:
        weight: Name of the parameter that takes part, the largest of several; empty where none does.
        elements: Elements of that parameter; 1 where there is none.
        macs: Multiply-accumulates.
    """

    weight: str
    elements: int
    macs: int


def count_operations(model: nn.Module, example: Inputs) -> list[Operation]:
    """Return the convolutions and matrix products of one call, in order.

    Kernels are kept from fusing, as where a candidate's cost is measured.

    Args:
        model: Put into eval mode.
        example: Inputs of ONE example (batch size 1).
    """
    found: list[Operation] = []
    owners = _owners(model)
    formulas = {operator: _Recorder(formula, owners, found) for operator, formula in flop_registry.items()}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with countable(model), counter:
        model(*example.args, **example.kwargs)
    return found


def width_exponents(
    dense: Sequence[Operation], probes: Iterable[Sequence[Operation]], shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return [L, G] exponents: positions of operation l go with (share of group g's width) ** exponent.

    Args:
        dense: [L] operations of the dense model.
        probes: [G] operations of the model with one group cut, in the order of the groups.
        shares: [G] share of its units that the cut group kept, in (0, 1].
    """
    exponents = np.zeros((len(dense), len(shares)))
    positions = _positions(dense)
    for group, (probe, share) in enumerate(zip(probes, shares, strict=True)):
        if len(probe) != len(dense) or share >= 1.0:
            continue
        raw = np.log(_positions(probe) / positions) / np.log(share)
        whole = np.rint(raw)
        exponents[:, group] = np.where(np.abs(raw - whole) < EXPONENT_STEP, whole, raw)
    return exponents


class _Recorder:
    """A formula of the counter that also writes down which parameter took part."""

    # The counter then passes tensors instead of shapes.
    _get_raw = True

    def __init__(self, formula: Callable[..., int], owners: dict[int, tuple[str, int]], found: list[Operation]) -> None:
        self._formula = formula
        self._owners = owners
        self._found = found

    def __call__(self, *args: Any, **kwargs: Any) -> int:
        flops = int(self._formula(*args, **kwargs))
        tensors = [value for value in args if isinstance(value, Tensor)]
        owners = [self._owners.get(tensor.untyped_storage().data_ptr(), ("", 1)) for tensor in tensors]
        weight, elements = max(owners, key=lambda owner: owner[1], default=("", 1))
        if flops:
            self._found.append(Operation(weight, elements, flops // 2))
        return flops


def _owners(model: nn.Module) -> dict[int, tuple[str, int]]:
    """Return address -> (name, elements) of every parameter; one that shares its memory has no name."""
    owners: dict[int, tuple[str, int]] = {}
    for name, parameter in model.named_parameters():
        address = parameter.untyped_storage().data_ptr()
        owners[address] = ("", 1) if address in owners else (name, parameter.numel())
    return owners


def _positions(operations: Sequence[Operation]) -> npt.NDArray[np.float64]:
    return np.array([operation.macs / operation.elements for operation in operations])
