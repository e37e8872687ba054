"""Evidence -> partition: which atoms are one unit, and which must stay, with the cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.groups.tracing.axes import AxisChoice, choose_axes, components
from autoprune.groups.tracing.evidence import Evidence, Freeze
from autoprune.groups.tracing.labels import BoolArray, Cause
from autoprune.groups.types import NO_UNIT, IntArray


@dataclass(frozen=True, eq=False)
class Partition:
    """Atoms in classes; a class is removed as a whole or not at all.

    Args:
        class_of: [atoms] number of the class.
        axes: The axis along which each block is cut.
        first_freeze: [classes] index in `causes` of the first reason to keep it, or -1 when it may go.
        causes: Reasons in order of the forward pass.
        inexact: [classes] whether a statistic runs over it, so that zeroing is not removing.
    """

    class_of: IntArray
    axes: AxisChoice
    first_freeze: IntArray
    causes: tuple[Cause, ...]
    inexact: BoolArray

    @property
    def count(self) -> int:
        """Number of classes."""
        return len(self.first_freeze)

    def free(self, atoms: IntArray) -> IntArray:
        """Return the classes of `atoms` that may go, in order of first appearance, without repeats."""
        classes = self.class_of[atoms.ravel()]
        live = classes[self.first_freeze[classes] < 0]
        return live[np.sort(np.unique(live, return_index=True)[1])]

    def cause(self, atoms: IntArray) -> Cause | None:
        """Return the first reason why some of `atoms` must stay."""
        freezes = self.first_freeze[self.class_of[atoms.ravel()]]
        frozen = freezes[freezes >= 0]
        return self.causes[int(frozen.min())] if len(frozen) else None


def partition(evidence: Evidence) -> Partition:
    """Draw the conclusions: choose axes, connect atoms, spread what must stay."""
    axes = choose_axes(evidence)
    edges = list(evidence.unions)
    freezes = list(evidence.freezes)
    for block in evidence.blocks:
        axis = axes.axis_of[block]
        if axis is None:
            freezes.append(Freeze(block.atoms.ravel(), axes.causes[block]))
        else:
            rows = block.along(axis)
            edges.append(np.stack([np.broadcast_to(rows[:, :1], rows.shape).ravel(), rows.ravel()]))
    _follow_links(evidence, axes, edges, freezes)
    class_of = components(evidence.atoms, edges)
    count = int(class_of.max(initial=NO_UNIT)) + 1
    first = np.full(count, len(freezes), dtype=np.int64)
    for number, freeze in enumerate(freezes):
        np.minimum.at(first, class_of[freeze.atoms], number)
    first[first == len(freezes)] = NO_UNIT
    inexact = np.zeros(count, dtype=np.bool_)
    for atoms, cut in evidence.statistics:
        if cut is None or axes.cuts(cut):
            inexact[class_of[atoms.ravel()]] = True
    return Partition(class_of, axes, first, tuple(f.cause for f in freezes), inexact)


def _follow_links(evidence: Evidence, axes: AxisChoice, edges: list[IntArray], freezes: list[Freeze]) -> None:
    """Unite linked axes that are both cut; one that is cut while the other is not must stay."""
    for link in evidence.links:
        left, right = link.left.along(link.left_position)[:, 0], link.right.along(link.right_position)[:, 0]
        cut_left = axes.cuts_position(link.left, link.left_position)
        cut_right = axes.cuts_position(link.right, link.right_position)
        if cut_left and cut_right:
            edges.append(np.stack([left, right]))
        elif cut_left:
            freezes.append(Freeze(left, link.cause))
        elif cut_right:
            freezes.append(Freeze(right, link.cause))
