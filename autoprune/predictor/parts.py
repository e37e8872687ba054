"""Widths of parts -> what masks, removed modules and low-rank layers take off a model's cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from autoprune.groups.types import Part
from autoprune.predictor.operations import count_operations
from autoprune.tasks.protocol import Inputs

FloatArray = npt.NDArray[np.float64]
LEAST = 1e-3

Edited = Callable[[str], tuple[float, nn.Module] | None]
"""Part -> (units it keeps, the dense model with as much of it taken out as may be); None where zeros stay in place."""


@dataclass(frozen=True)
class PartCosts:
    """What parts change about a dense model: zeros that stay in place, and shares of cost that go with the units.

    Args:
        names: Of the parts.
        full: [P] units of every part.
        masked: [P] whether its removed units are zeros that stay.
        macs: [P] share of the dense model's multiply-accumulates that would go with all of its units, by a straight
            line through what was measured with most of them gone.
        parameters: [P] the same of parameters.
        bytes: [P] the same of bytes.
    """

    names: tuple[str, ...]
    full: FloatArray
    masked: npt.NDArray[np.bool_]
    macs: FloatArray
    parameters: FloatArray
    bytes: FloatArray

    @classmethod
    def of(cls, model: nn.Module, parts: Sequence[Part], example: Inputs, edited: Edited | None) -> PartCosts:
        """Measure what every part takes off, once each, by really editing the model.

        Args:
            model: The prepared dense model.
            parts: The searched ones.
            example: Inputs of ONE example (batch size 1).
            edited: Gives the edited models; None = all zeros stay in place.
        """
        slopes = np.zeros((3, len(parts)))
        masked = np.ones(len(parts), dtype=np.bool_)
        dense = _sizes(model, example) if parts else np.ones(3)
        for column, part in enumerate(parts):
            found = None if edited is None else edited(part.name)
            if found is not None and found[0] < part.width:
                kept, smaller = found
                masked[column] = False
                gone = 1.0 - kept / part.width
                slopes[:, column] = (1.0 - _sizes(smaller, example) / dense) / gone
        masked &= np.array([part.kind == "tensor" for part in parts], dtype=np.bool_)
        names = tuple(part.name for part in parts)
        return cls(names, np.array([part.width for part in parts], dtype=np.float64), masked, *slopes)

    def zeros(self, widths: FloatArray) -> FloatArray:
        """Return [n] weights that masks keep at zero, at [n, P] kept units."""
        return np.asarray((self.full - widths)[:, self.masked].sum(axis=1))

    def left(self, slopes: FloatArray, widths: FloatArray) -> FloatArray:
        """Return [n] shares of a cost that are left, above 0: what several parts take off adds up."""
        return np.asarray(np.maximum(1.0 - (1.0 - widths / self.full) @ slopes, LEAST))


def _sizes(model: nn.Module, example: Inputs) -> FloatArray:
    """Return multiply-accumulates, parameters and bytes, each at least 1."""
    parameters = [*model.parameters()]
    tensors = [*parameters, *model.buffers()]
    macs = sum(operation.macs for operation in count_operations(model, example))
    counted = [macs, sum(p.numel() for p in parameters), sum(t.numel() * t.element_size() for t in tensors)]
    return np.maximum(np.array(counted, dtype=np.float64), 1.0)
