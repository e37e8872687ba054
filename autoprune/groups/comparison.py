"""Two graphs -> the first thing in which a pruned model's graph is not what the labels predict.

Of what a call is given only lengths may change, since the shapes of what it makes tell whether they are right, and
where a range or a padding starts and how many groups there are, which the labels predict. Every other constant must
stay: numbers, flags, indices, shifts, dimensions, and tensors that the source makes of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from types import NoneType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from autoprune.groups.tracing import Trace
from autoprune.groups.tracing.labels import BoolArray, Labels
from autoprune.groups.tracing.operators import Result, operator_name
from autoprune.groups.tracing.tracer import tensor_shapes

VANISHING = ("contiguous", "clone", "alias", "detach")
RANGES = ("slice", "narrow")
PADDINGS = ("pad", "constant_pad_nd")
GROUPED = {"group_norm": "num_groups", "channel_shuffle": "groups", "native_channel_shuffle": "groups"}
# Arguments of torch's own operators that only say how long the result's dimensions are.
LENGTHS = frozenset({"size", "shape", "sizes", "repeats", "split_size", "split_sizes", "normalized_shape"})
LENGTHS_OF = {
    "slice": {"start", "end"},
    "narrow": {"start", "length"},
    "tensor_split": {"indices"},
    "tile": {"dims"},
    **{name: {"pad"} for name in PADDINGS},
    **{name: {argument} for name, argument in GROUPED.items()},
    **{f"conv{n}d": {"groups"} for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": {"groups"} for n in (1, 2, 3)},
}


def mismatch(trace: Trace, program: ExportedProgram, alive: BoolArray) -> str | None:
    """Return the first difference between a pruned model's graph and the prediction, or None.

    Args:
        trace: Of the whole model.
        program: The pruned model's graph.
        alive: [atoms] those that the pruned model has.
    """
    before, after = _operators(trace.program), _operators(program)
    if len(before) != len(after):
        return f"the graph has {len(after)} operators, not {len(before)}"
    for old, new in zip(before, after, strict=True):
        problem = _difference(trace, old, new, alive)
        if problem is not None:
            return problem
    pairs = zip_longest(_constant_tensors(trace.program), _constant_tensors(program))
    return None if all(_equal(old, new) for old, new in pairs) else "a tensor that the source makes of numbers changed"


def _difference(trace: Trace, old: Node, new: Node, alive: BoolArray) -> str | None:
    """Return in what one call is not as predicted, or None."""
    if old.target != new.target and not (_subgraph(old) and _subgraph(new)):
        return f"{old.name} became {new.name}"
    if _constants(old) != _constants(new):
        return f"a constant of {old.name} changed"
    shapes, result = tensor_shapes(new.meta.get("val")), trace.labels.get(old)
    predicted = tensor_shapes(old.meta.get("val")) if result is None else _pruned_shapes(result, alive)
    if shapes is not None and predicted != shapes:
        return f"{old.name} has shape {_show(shapes)}, not {_show(predicted or ())}"
    if _starts(new) != _predicted_starts(trace, old, alive):
        return f"{old.name} starts at another channel"
    if _group_count(new) != _predicted_group_count(trace, old, alive):
        return f"{old.name} has another number of groups"
    return None


def _pruned_shapes(result: Result, alive: BoolArray) -> tuple[tuple[int, ...], ...]:
    return tuple(labels.pruned_shape(alive) for labels in ([result] if isinstance(result, Labels) else result))


def _operators(program: ExportedProgram) -> list[Node]:
    """Return the calls in order, those of nested graphs too, without what may vanish when a dimension becomes 1."""
    graphs = (m.graph for m in program.graph_module.modules() if isinstance(m, GraphModule))
    calls = (node for graph in graphs for node in graph.nodes if node.op == "call_function")
    return [node for node in calls if not any(name in str(node.target) for name in VANISHING)]


def _subgraph(node: Node) -> bool:
    """Tell whether a node calls a graph of its own, such as what runs without gradients."""
    return any(source.op == "get_attr" for source in node.all_input_nodes)


def _constants(node: Node) -> dict[str, list[str]]:
    """Return what a call is given besides tensors and lengths, by argument; as text, in which nan equals itself."""
    plain = (int, float, complex, bool, str, NoneType)
    given = _arguments_that_stay(node).items()
    return {name: [repr(x) if type(x) in plain else "" for x in tree_leaves(value)] for name, value in given}


def _arguments_that_stay(node: Node) -> dict[str, Any]:
    """Return the arguments of a call but lengths, by name, with defaults."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(i): value for i, value in enumerate(node.args)}, **node.kwargs}
    given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given |= {a.name: value for a, value in zip(schema.arguments, node.args, strict=False)}
    given |= dict(node.kwargs)
    name = operator_name(node)
    lengths = set() if "::" in name else LENGTHS | LENGTHS_OF.get(name, set())
    return {key: value for key, value in given.items() if key not in lengths}


def _constant_tensors(program: ExportedProgram) -> Iterator[Tensor]:
    """Yield the tensors that are neither parameters nor buffers, in order of first use."""
    for name in program.graph_signature.inputs_to_lifted_tensor_constants.values():
        value = program.constants[name]
        if isinstance(value, Tensor):
            yield value


def _equal(left: Tensor | None, right: Tensor | None) -> bool:
    """Compare constants, of which neither may lack; nan equals itself."""
    if left is None or right is None or left.shape != right.shape or left.dtype != right.dtype:
        return False
    return left is right or torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)


def _starts(node: Node) -> dict[int, int]:
    """Return dimension -> the first index that a range takes, or the number of indices padded before the first."""
    name = operator_name(node)
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or len(node.args) < 2:
        return {}
    if name in RANGES and len(node.args) > 2:
        dim, start = node.args[1:3]
        if isinstance(dim, int) and isinstance(start, int):
            size = int(source.meta["val"].shape[dim])
            return {dim % source.meta["val"].dim(): min(start, size) if start >= 0 else max(start + size, 0)}
    if name in PADDINGS and isinstance(node.args[1], list | tuple):
        last = source.meta["val"].dim() - 1
        return {last - number: width for number, width in enumerate(node.args[1][::2]) if isinstance(width, int)}
    return {}


def _predicted_starts(trace: Trace, node: Node, alive: BoolArray) -> dict[int, int]:
    """Return the starts where the tensor that is counted has the living channels: a range's source, what is padded."""
    starts = _starts(node)
    counted = trace.labels.get(node if operator_name(node) in PADDINGS else node.all_input_nodes[0]) if starts else None
    if not isinstance(counted, Labels):
        return starts
    return {dim: _living(counted, dim, start, alive) for dim, start in starts.items()}


def _living(labels: Labels, dim: int, count: int, alive: BoolArray) -> int:
    """Return how many of the first `count` indices of a dimension live."""
    factor = labels.at(dim)
    if factor is None or count < 0:
        return count
    return int(alive[factor.along(factor.position(dim))[:count]].any(axis=1).sum())


def _group_count(node: Node) -> int:
    """Return in how many groups an operator takes the channels of dimension 1; 0 for other operators."""
    argument = GROUPED.get(operator_name(node))
    groups = node.kwargs.get(argument, node.args[1] if len(node.args) > 1 else 0) if argument else 0
    return groups if isinstance(groups, int) else 0


def _predicted_group_count(trace: Trace, node: Node, alive: BoolArray) -> int:
    """Return how many groups have a living channel."""
    groups = _group_count(node)
    labels = trace.labels.get(node.all_input_nodes[0]) if groups else None
    factor = labels.at(1) if isinstance(labels, Labels) else None
    if factor is None or factor.atoms.ndim > 1:
        return groups
    return int(alive[factor.atoms.reshape(groups, -1)].any(axis=1).sum())


def _show(shapes: tuple[tuple[int, ...], ...]) -> str:
    return str(shapes[0] if len(shapes) == 1 else shapes)
