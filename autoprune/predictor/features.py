"""Rows of a space -> features: what the ensemble learns from, cheap enough for thousands of candidates a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.predictor.additive import SATURATION, AdditiveModel
from autoprune.predictor.cost import CostModel

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """A column of rows that is no level.

    Args:
        column: Its index.
        size: Number of its values.
        ordered: Whether neighbours are alike: then one feature, else one a value.
        group: Index of the group that it belongs to; None where it holds for the whole model.
        codes: Feature that each value of a group's choice counts for: groups may lack some values. Empty = its index.
    """

    column: int
    size: int
    ordered: bool
    group: int | None = None
    codes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Encoder:
    """Turns rows into features.

    Per group the share kept; per choice a one-hot code, or its place where it is ordered; choices of single groups as
    the share of all removed units that each value decides on; logarithms of MACs and parameters; mean and least share
    kept; and where there is one, the additive model's sum, largest term, grown sum and single terms, from which the
    linear members learn how much each group really counts.

    Args:
        widths: [G, levels] kept width of every level.
        dense: [G] dense widths.
        choices: The other columns.
        costs: Parameters and MACs of any widths.
        additive: Prior from one-at-a-time results.
        active: Which columns of rows count; None = all. A choice that does not count is no value: all zeros.
    """

    widths: Rows
    dense: Rows
    choices: Sequence[Choice]
    costs: CostModel
    additive: AdditiveModel | None = None
    active: Callable[[Rows], Flags] | None = None

    def __call__(self, rows: Rows) -> Floats:
        """Return [n, F] features of [n, D] rows."""
        groups = len(self.dense)
        widths = self.widths[np.arange(groups), rows[:, :groups]]
        kept = widths / self.dense
        counts = np.ones(rows.shape, dtype=bool) if self.active is None else self.active(rows)
        parts = [kept, *self._global(rows, counts), *self._local(rows, 1.0 - kept, counts)]
        parts.append(np.column_stack([np.log(self.costs.macs(widths)), np.log(self.costs.parameters(widths))]))
        parts.append(np.column_stack([kept.mean(axis=1), kept.min(axis=1)]))
        if self.additive is not None:
            parts += [self.additive.features(rows), np.minimum(self.additive.terms(rows), SATURATION)]
        return np.hstack(parts)

    def _global(self, rows: Rows, counts: Flags) -> list[Floats]:
        parts = []
        for choice in self.choices:
            if choice.group is None:
                steps, counting = rows[:, choice.column], counts[:, choice.column]
                if choice.ordered:
                    parts.append((steps * counting)[:, None] / max(choice.size - 1, 1))
                else:
                    chosen = (steps[:, None] == np.arange(choice.size)) & counting[:, None]
                    parts.append(chosen.astype(np.float64))
        return parts

    def _local(self, rows: Rows, removed: Floats, counts: Flags) -> list[Floats]:
        local = [(c, c.codes or tuple(range(c.size))) for c in self.choices if c.group is not None]
        if not local:
            return []
        shares = np.zeros((len(rows), 1 + max(max(codes) for _, codes in local)))
        for choice, codes in local:
            weight = removed[:, choice.group] / len(self.dense)
            for value, code in enumerate(codes):
                shares[:, code] += weight * ((rows[:, choice.column] == value) & counts[:, choice.column])
        return [shares]
