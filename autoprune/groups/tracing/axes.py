"""Blocks -> axes: along which axis each joint arrangement is cut, so that it stays rectangular."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from autoprune.groups.tracing.evidence import Evidence
from autoprune.groups.tracing.labels import Block, BlockAxis, Cause, Factor
from autoprune.groups.types import IntArray


@dataclass(frozen=True)
class AxisChoice:
    """Along which axis each block is cut.

    Args:
        axis_of: None when every axis of the block must keep its length.
        causes: Why, for those.
        contracted: Axes that are summed over somewhere while another one is kept.
    """

    axis_of: Mapping[Block, int | None]
    causes: Mapping[Block, Cause]
    contracted: Mapping[Block, frozenset[int]]

    def cuts(self, axis: BlockAxis) -> bool:
        """Return whether a block is cut along this axis."""
        return self.axis_of[axis.block] == axis.number

    def cuts_position(self, factor: Factor, position: int) -> bool:
        """Return whether an axis of a factor gets shorter when its channels go."""
        axis = factor.axes[position]
        return True if axis is None else self.cuts(axis)


def components(count: int, edges: Iterable[IntArray]) -> IntArray:
    """Return [count] the number of each node's connected component.

    Args:
        count: Number of nodes.
        edges: Arrays [2, n] of pairs.
    """
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *edges], axis=1)
    graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def choose_axes(evidence: Evidence) -> AxisChoice:
    """Choose one axis a block, the same one over tied axes, never one that must keep its length."""
    blocks = evidence.blocks
    first = dict(zip(blocks, np.cumsum([0] + [b.atoms.ndim for b in blocks]).tolist(), strict=False))
    count = sum(b.atoms.ndim for b in blocks)
    ties = [(first[a.block] + a.number, first[b.block] + b.number) for a, b in evidence.ties]
    ties += [(first[a] + i, first[b] + i) for a, b in _same_arrangement(blocks) for i in range(a.atoms.ndim)]
    tied = components(count, [np.array(ties, dtype=np.int64).reshape(-1, 2).T])
    kept = {int(tied[first[b] + i]): cause for b in blocks for i, cause in b.fixed.items()}
    contracted = {int(tied[first[b] + i]) for b in blocks for i in b.contracted}
    wanted = {int(tied[first[axis.block] + axis.number]) for axis in evidence.wanted}
    hints = [(tied[first[a.block] + a.number], tied[first[b.block] + b.number]) for a, b in evidence.hints]
    alike = components(count, [np.array(hints, dtype=np.int64).reshape(-1, 2).T])

    def names(block: Block) -> list[int]:
        return [int(tied[first[block] + i]) for i in range(block.atoms.ndim)]

    chosen: set[int] = set()
    axis_of: dict[Block, int | None] = {}
    first_copies = evidence.copies_first
    for block in sorted(blocks, key=lambda b: _priority(b, names(b), set(kept), contracted, first_copies)):
        order = _preference(block, names(block), contracted, wanted, first_copies)
        order = [i for i in order if names(block)[i] not in kept]
        order.sort(key=lambda i: (names(block)[i] not in chosen, alike[names(block)[i]] not in alike[list(chosen)]))
        axis_of[block] = order[0] if order else None
        chosen |= {names(block)[i] for i in order[:1]}
    causes = {b: next((kept[n] for n in reversed(names(b)) if n in kept), Cause("it cannot be cut")) for b in blocks}
    spread = {b: frozenset(i for i, n in enumerate(names(b)) if n in contracted) for b in blocks}
    return AxisChoice(axis_of, causes, spread)


def _same_arrangement(blocks: list[Block]) -> list[tuple[Block, Block]]:
    """Return pairs of blocks that hold the same atoms in the same places, seen by several operators."""
    seen: dict[tuple[tuple[int, ...], bytes], Block] = {}
    pairs = [(block, seen.setdefault((block.atoms.shape, block.atoms.tobytes()), block)) for block in blocks]
    return [(a, b) for a, b in pairs if a is not b]


def _priority(
    block: Block, names: list[int], kept: set[int], contracted: set[int], copies_first: bool
) -> tuple[int, bool, bool, bool]:
    """Order blocks so that those with the least choice, then those that know their axis, choose first."""
    only_copies = len(block.copies) == block.atoms.ndim
    behind = only_copies or not block.copies if copies_first else only_copies
    return -sum(n in kept for n in names), behind, block.kind == "view", not contracted & set(names)


def _preference(
    block: Block, names: list[int], contracted: set[int], wanted: set[int], copies_first: bool
) -> list[int]:
    """Return the axes that can be cut, best first.

    A view used as heads x head_dim (one axis contracted, the other kept) is cut along the one kept; a view that is
    only merged again is cut along one that meets plain channels, else along its longest axis, which leaves small
    literal factors alone. An axis along which everything is repeated comes behind one that holds what is repeated,
    unless copies come first.
    """
    axes = [i for i, size in enumerate(block.atoms.shape) if size > 1]
    if block.kind != "view":
        return sorted(axes, key=lambda i: i != block.preferred)
    late = {i for i in axes if (i in block.copies) != (copies_first and bool(block.copies))}
    if contracted & set(names):
        return sorted(axes, key=lambda i: (names[i] in contracted, i in late))
    return sorted(axes, key=lambda i: (i in late, names[i] not in wanted, -block.atoms.shape[i]))
