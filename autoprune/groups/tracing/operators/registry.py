"""The operators that the tracer understands: one function a family, found by the ATen operator's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from autoprune.groups.tracing.evidence import Evidence
from autoprune.groups.tracing.labels import Factor, Labels
from autoprune.groups.types import IntArray
from autoprune.registry import Registry

Result = Labels | list[Labels]
Handler = Callable[["Call"], Result]

ATEN = "aten"


class UnsupportedOperatorError(Exception):
    """An operator, or a use of it, that the tracer does not understand; its operands then stay whole."""


@dataclass
class Weights:
    """The model's own tensors: which atoms are theirs, and which of their dimensions make channels.

    Args:
        labels: Name -> labels; a tensor that has several names stands under the first one.
        names: First name of a tensor -> all its names.
        producers: (name, dim) whose rows make channels, in order of first use; a tied tensor under the name that the
            using module has for it.
        grouped: Name of a grouped convolution's weight -> [groups, in / groups] atoms of its columns, which are the
            input's channels.
        convolutions: Names of weights owned by a convolution module, whose `groups` can be changed.
    """

    labels: dict[str, Labels] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    producers: dict[tuple[str, int], None] = field(default_factory=dict)
    grouped: dict[str, IntArray] = field(default_factory=dict)
    convolutions: frozenset[str] = frozenset()
    _first_atom: dict[int, tuple[str, int]] = field(default_factory=dict)

    def add(self, names: tuple[str, ...], labels: Labels) -> None:
        """Record a tensor, by all its names, whose every factor covers one dimension."""
        self.labels[names[0]] = labels
        self.names[names[0]] = names
        for factor in labels.factors:
            self._first_atom[int(factor.atoms[0])] = (names[0], factor.visible[0])

    def atoms(self, name: str, dim: int) -> IntArray:
        """Return the atoms on a dimension of a tensor under any of its names."""
        first = next(first for first, names in self.names.items() if name in names)
        factor = self.labels[first].at(dim)
        return np.zeros(0, np.int64) if factor is None else factor.atoms

    def source(self, factor: Factor) -> tuple[str, int] | None:
        """Return (name, dim) of the tensor whose whole dimension the factor is, whatever views lie between."""
        if factor.atoms.ndim != 1:
            return None
        found = self._first_atom.get(int(factor.atoms[0]))
        if found is None:
            return None
        own = self.labels[found[0]].at(found[1])
        same = own is not None and own.atoms.shape == factor.atoms.shape and bool((own.atoms == factor.atoms).all())
        return found if same else None

    def note_producer(self, factor: Factor | None, module: str) -> None:
        """Record that a module's contraction makes channels of a factor, if that is a tensor's own dimension."""
        source = None if factor is None else self.source(factor)
        if source is not None:
            name, dim = source
            used = next((n for n in self.names[name] if n.rpartition(".")[0] == module), name)
            self.producers.setdefault((used, dim))


@dataclass(frozen=True)
class Call:
    """One operator's call in the graph.

    Args:
        evidence: Where conclusions go.
        weights: The model's own tensors.
        name: The operator's name without overload.
        arguments: By the names of its schema, defaults included.
        known: Labels of the nodes so far.
        shapes: Of its results.
        single: Whether the result is one tensor rather than a sequence.
    """

    evidence: Evidence
    weights: Weights
    name: str
    arguments: Mapping[str, Any]
    known: Mapping[Node, Result]
    shapes: tuple[tuple[int, ...], ...]
    single: bool

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) result."""
        return self.shapes[0]

    @property
    def operands(self) -> list[Labels]:
        """Labels of all arguments that are tensors."""
        nodes = (value for value in self.arguments.values() if isinstance(value, Node))
        return [self.of(node) for node in nodes if isinstance(node.meta.get("val"), Tensor)]

    @property
    def first(self) -> Labels:
        """Labels of the first argument."""
        return self.of(next(iter(self.arguments.values())))

    def labels(self, argument: str) -> Labels:
        """Return the labels of a tensor argument."""
        return self.of(self.arguments[argument])

    def optional(self, argument: str) -> Labels | None:
        """Return the labels of a tensor argument that may be None."""
        value = self.arguments.get(argument)
        return None if value is None else self.of(value)

    def sequence(self, argument: str) -> list[Labels]:
        """Return the labels of an argument that is a list of tensors, None left out."""
        return [self.of(value) for value in self.arguments[argument] if value is not None]

    def dim(self, argument: str, rank: int) -> int:
        """Return a dimension argument counted from the front."""
        return int(self.arguments[argument]) % rank

    def note_producer(self, factor: Factor | None) -> None:
        """Record that channels are made of a factor, if that is a parameter's own dimension."""
        self.weights.note_producer(factor, self.evidence.module)

    def of(self, value: object) -> Labels:
        """Return the labels of one tensor among the arguments."""
        found = self.known.get(value) if isinstance(value, Node) else None
        if not isinstance(found, Labels):
            raise UnsupportedOperatorError(f"an operand of {self.name} is not a plain tensor")
        return found


def operator_name(node: Node) -> str:
    """Return the name without overload, and without torch's own namespace: aten::add.Tensor -> add.

    It is empty for a node that calls nothing.
    """
    if node.op != "call_function":
        return ""
    namer = getattr(node.target, "name", None)
    full = str(namer() if callable(namer) else node.target)
    space, separator, name = full.rpartition("::")
    name = name.partition(".")[0]
    return name if space == ATEN or not separator else f"{space}::{name}"


OPERATORS: Registry[Handler] = Registry("operator", group="autoprune.operators")


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Return a decorator that registers a handler for operators of these names, in-place forms aside.

    An operator of torch's own goes by its name alone, one of another library by `namespace::name`.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            OPERATORS.register(name)(handler)
        return handler

    return register


def normalised_dims(dims: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Return dimensions counted from the front; None or an empty list means all of them."""
    if dims is None or (not isinstance(dims, int) and not dims):
        return tuple(range(rank))
    return tuple(d % rank for d in ([dims] if isinstance(dims, int) else dims))
