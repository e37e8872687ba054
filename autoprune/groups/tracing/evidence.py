"""Evidence: what the walk over the graph has learnt about atoms. Which are one, which must stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from autoprune.groups.tracing.labels import Block, BlockAxis, BlockKind, Cause, Factor, Labels
from autoprune.groups.types import IntArray


@dataclass(frozen=True, eq=False)
class Link:
    """Two factors that share one dimension only: index i of one axis lives as long as index i of the other."""

    left: Factor
    left_position: int
    right: Factor
    right_position: int
    cause: Cause


@dataclass(frozen=True, eq=False)
class Freeze:
    """Atoms that must stay."""

    atoms: IntArray
    cause: Cause


def is_copy(factor: Factor, position: int) -> bool:
    """Tell whether an operator repeated everything along an axis of a factor."""
    axis = factor.axes[position]
    return axis is not None and axis.number in axis.block.copies


@dataclass
class Evidence:
    """Collects what operators say; `units.py` draws the conclusions.

    Args:
        atoms: Number of atoms so far.
        unions: Arrays [2, n] of atoms that are one channel.
        ties: Axes of blocks for which the same choice (cut along it or not) should be made.
        hints: Axes of blocks for which the same choice is better than different ones.
        wanted: Axes of blocks that meet channels which are cut whatever is chosen.
        statistics: Atoms, or a block axis, over which a mean, variance, norm or sum is taken.
        regions: For every cut of a dimension at literals or attributes the atoms between neighbouring bounds.
        copies_first: Whether a block is cut along an axis of copies rather than along what is copied.
        module: Path of the module whose forward is being walked.
        node: Name of the graph's node being walked.
    """

    atoms: int = 0
    unions: list[IntArray] = field(default_factory=list)
    ties: list[tuple[BlockAxis, BlockAxis]] = field(default_factory=list)
    hints: list[tuple[BlockAxis, BlockAxis]] = field(default_factory=list)
    wanted: list[BlockAxis] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    statistics: list[tuple[IntArray, BlockAxis | None]] = field(default_factory=list)
    regions: list[list[IntArray]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    copies_first: bool = False
    module: str = ""
    node: str = ""

    def cause(self, reason: str) -> Cause:
        """Return `reason` with the place of the walk."""
        return Cause(reason, self.module, self.node)

    def fresh(self, *shape: int) -> IntArray:
        """Return new atoms."""
        count = int(np.prod(shape))
        self.atoms += count
        return np.arange(self.atoms - count, self.atoms, dtype=np.int64).reshape(shape)

    def unite(self, left: IntArray, right: IntArray) -> None:
        """Record that atoms are pairwise one channel; arrays broadcast."""
        if left is not right:
            pair = np.broadcast_arrays(left, right)
            self.unions.append(np.stack([pair[0].ravel(), pair[1].ravel()]))

    def freeze(self, labels: Labels, reason: str) -> None:
        """Keep everything that lies on a tensor."""
        for factor in labels.factors:
            if factor.partial:
                self.pin(factor, factor.visible, reason)
            else:
                self.freeze_atoms(factor.atoms, reason)

    def freeze_atoms(self, atoms: IntArray, reason: str) -> None:
        """Keep atoms."""
        self.freezes.append(Freeze(atoms.ravel(), self.cause(reason)))

    def pin(self, factor: Factor, dims: tuple[int, ...], reason: str) -> None:
        """Keep the length of some dimensions; the other axes of a joint factor stay prunable."""
        for dim in dims:
            axis = factor.axes[factor.position(dim)]
            if axis is None:
                self.freeze_atoms(factor.atoms, reason)
            else:
                self.fix(axis, reason)

    def fix(self, axis: BlockAxis, reason: str) -> None:
        """Keep the length of a block's axis."""
        axis.block.fixed.setdefault(axis.number, self.cause(reason))

    def block(
        self, atoms: IntArray, kind: BlockKind, *, preferred: int = 0, copies: frozenset[int] = frozenset()
    ) -> Block:
        """Record that an arrangement of atoms must stay rectangular."""
        block = Block(atoms, kind, preferred, copies=copies)
        self.blocks.append(block)
        return block

    def repeated(self, size: int, dim: int) -> Factor:
        """Return channels of their own for a dimension along which everything is repeated.

        How often may then follow what it meets, such as the query heads that share one key head.
        """
        return Factor.of_block(self.block(self.fresh(size), "view", copies=frozenset({0})), (dim,))

    def product(self, factors: Sequence[Factor]) -> Factor:
        """Return one factor over the dimensions of several independent ones, each entry a channel of its own."""
        places = sorted((d, f, factor.position(d)) for f, factor in enumerate(factors) for d in factor.visible)
        sizes = [factors[f].atoms.shape[i] for _, f, i in places]
        copies = {n for n, (_, f, i) in enumerate(places) if is_copy(factors[f], i)}
        block = self.block(self.fresh(*sizes), "view", copies=frozenset(copies))
        product = Factor.of_block(block, (dim for dim, _, _ in places))
        for number, (_, f, i) in enumerate(places):
            self.link(factors[f], i, product, number)
        return product

    def tie(self, left: BlockAxis | None, right: BlockAxis | None) -> None:
        """Record that two axes are the same one, where both are axes of blocks."""
        if left is not None and right is not None:
            self.ties.append((left, right))

    def link(self, left: Factor, left_position: int, right: Factor, right_position: int) -> None:
        """Record that two axes live and die together, index by index, whatever lies on the other axes."""
        cause = self.cause("it meets an arrangement that is cut along another axis")
        self.links.append(Link(left, left_position, right, right_position, cause))
        axes = left.axes[left_position], right.axes[right_position]
        self.tie(*axes)
        if None in axes:
            self.wanted.extend(axis for axis in axes if axis is not None)

    def bounds(self, atoms: IntArray, bounds: Sequence[int]) -> None:
        """Record where the channels of a dimension are cut into pieces, of which none may be empty."""
        ranges = [(start, end) for start, end in pairwise((0, *bounds, len(atoms))) if start < end]
        self.regions.append([atoms[start:end] for start, end in ranges])
        for start, _ in ranges:
            self.freeze_atoms(atoms[start : start + 1], "literal slice")

    def statistic(self, factor: Factor, dims: tuple[int, ...]) -> None:
        """Record that values are pooled over some dimensions, so a zeroed channel is not an absent one."""
        for dim in dims:
            self.statistics.append((factor.atoms, factor.axes[factor.position(dim)]))
