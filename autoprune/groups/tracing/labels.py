"""Labels: which channels lie on every dimension of a tensor. No torch here, only index arithmetic.

Every dimension of every parameter starts with channel identities of its own (integers, "atoms"). Operators carry
them on, unite them or freeze them. A `Factor` says which atoms lie on one dimension, or on several dimensions
jointly (heads x head_dim); a tensor's `Labels` are its factors. A dimension without factor is not prunable: batch,
space, time, constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from autoprune.groups.types import IntArray

BoolArray = npt.NDArray[np.bool_]
BlockKind = Literal["view", "conv_groups", "block"]


@dataclass(frozen=True)
class Cause:
    """Why something must stay.

    Args:
        reason: For the reader, in lower case, such as "literal slice".
        module: Path of the module in whose forward it happened.
        node: Name of the node in the exported graph.
    """

    reason: str
    module: str = ""
    node: str = ""

    def __str__(self) -> str:
        return f"{self.reason} (in {self.module!r})" if self.module else self.reason


@dataclass(eq=False)
class Block:
    """An arrangement of atoms that must stay rectangular, so whole slices along one of its axes are the units.

    Args:
        atoms: [n_1, ..., n_k].
        kind: A `view` leaves the choice of the axis to what is done with it; the others know it.
        preferred: The axis to cut along when more than one may be.
        fixed: Axes whose length must stay, with the cause.
        contracted: Axes that some operator summed over while it kept another one (the head_dim of attention).
        copies: Axes along which an operator repeated what lies on the others; they are cut last.
    """

    atoms: IntArray
    kind: BlockKind
    preferred: int = 0
    fixed: dict[int, Cause] = field(default_factory=dict)
    contracted: set[int] = field(default_factory=set)
    copies: frozenset[int] = frozenset()

    def axis(self, number: int) -> BlockAxis:
        """Return a handle of one axis."""
        return BlockAxis(self, number)

    def along(self, number: int) -> IntArray:
        """Return [length of the axis, rest]: every row holds the atoms of one slice."""
        return rows(self.atoms, number)


class BlockAxis(NamedTuple):
    """One axis of one block."""

    block: Block
    number: int


@dataclass(frozen=True, eq=False)
class Factor:
    """The atoms that lie on one dimension of a tensor, or on several jointly.

    Args:
        atoms: [n_1, ..., n_k].
        dims: For each axis of `atoms` the tensor's dimension on which it lies; None where an operator summed over it.
        axes: For each axis of `atoms` the block axis that it is; None only when `atoms` has a single, free axis.
    """

    atoms: IntArray
    dims: tuple[int | None, ...]
    axes: tuple[BlockAxis | None, ...]

    @classmethod
    def single(cls, atoms: IntArray, dim: int) -> Factor:
        """Return a factor over one dimension that belongs to no block."""
        return cls(atoms, (dim,), (None,))

    @classmethod
    def of_block(cls, block: Block, dims: Iterable[int | None]) -> Factor:
        """Return a factor that has a whole block on `dims`."""
        return cls(block.atoms, tuple(dims), tuple(block.axis(i) for i in range(block.atoms.ndim)))

    @property
    def visible(self) -> tuple[int, ...]:
        """The tensor's dimensions that it covers."""
        return tuple(d for d in self.dims if d is not None)

    @property
    def partial(self) -> bool:
        """Whether some axis was summed over."""
        return None in self.dims

    def position(self, dim: int) -> int:
        """Return which axis of `atoms` lies on a dimension."""
        return self.dims.index(dim)

    def along(self, position: int) -> IntArray:
        """Return [length of the axis, rest] atoms."""
        return rows(self.atoms, position)

    def aligned(self, dims: Iterable[int]) -> IntArray:
        """Return the atoms of a factor that is not partial, with axes in the order of `dims`."""
        return self.atoms.transpose([self.position(d) for d in dims])

    def moved(self, place: Mapping[int, int | None]) -> Factor | None:
        """Return the factor with dimensions renamed; a dimension that `place` lacks is gone. None if all are gone."""
        dims = tuple(None if d is None else place.get(d) for d in self.dims)
        return None if all(d is None for d in dims) else Factor(self.atoms, dims, self.axes)


@dataclass(frozen=True, eq=False)
class Labels:
    """Shape of one tensor and the factors on its dimensions; a dimension is covered by one factor at most."""

    shape: tuple[int, ...]
    factors: tuple[Factor, ...] = ()

    def at(self, dim: int) -> Factor | None:
        """Return the factor that covers a dimension."""
        return next((f for f in self.factors if dim in f.dims), None)

    def moved(self, shape: tuple[int, ...], place: Mapping[int, int | None]) -> Labels:
        """Return labels of a tensor whose dimension `place[d]` is this one's `d`."""
        moved = (f.moved(place) for f in self.factors)
        return Labels(shape, tuple(f for f in moved if f is not None))

    def pruned_shape(self, alive: BoolArray) -> tuple[int, ...]:
        """Return the shape once dead atoms are cut out.

        Args:
            alive: [atoms].
        """
        shape = list(self.shape)
        for dim, size, _ in self.pruned_dims(alive):
            shape[dim] = size
        return tuple(shape)

    def pruned_dims(self, alive: BoolArray) -> Iterator[tuple[int, int, IntArray]]:
        """Yield (dimension, its new size, [old size, rest] its atoms) of every dimension with channels.

        Args:
            alive: [atoms].
        """
        for factor in self.factors:
            for dim in factor.visible:
                atoms = factor.along(factor.position(dim))
                yield dim, int(alive[atoms].any(axis=1).sum()), atoms


def pick(atoms: IntArray, index: int | IntArray, axis: int) -> IntArray:
    """Return `atoms` at some indices of an axis; a single index removes the axis."""
    return np.asarray(atoms.take(index, axis=axis), dtype=np.int64)


def rows(atoms: IntArray, axis: int) -> IntArray:
    """Return `atoms` as [length of `axis`, rest]."""
    return np.moveaxis(atoms, axis, 0).reshape(atoms.shape[axis], -1)
