"""ONNX graph of the dense model -> graph whose sizes follow its initializers, so that narrower tensors fit in.

The exporter writes the dense model's sizes as literals and wraps parameters in casts and expansions that keep
ONNX Runtime from folding normalisation into convolutions. Both are undone with the shapes of the dense graph:

* a cast to the same type and an expansion to the same shape go;
* an expansion's literal that equals the input's own size becomes 1, which keeps whatever size comes in;
* a reshape copies the sizes it does not touch (0) and leaves one touched size to be inferred (-1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

Size = int | str
Split = Literal["outer", "inner"]
_COPY, _INFER, _KEEP = 0, -1, 1


def relaxed_graphs(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, ...]:
    """Return the relaxed graph once per reading of its splitting reshapes, duplicates left out.

    Of a dimension split in two or more, `outer` infers the last but one size (heads, with their width kept) and
    `inner` the last (the width, with the heads kept).
    """
    inferred = onnx.shape_inference.infer_shapes(graph, data_prop=True)
    outer, inner = _relaxed(inferred, "outer"), _relaxed(inferred, "inner")
    return (outer,) if outer == inner else (outer, inner)


@dataclass
class _Types:
    """Element type and sizes of every value of the dense graph; a size is a number or a symbol."""

    elements: dict[str, int]
    sizes: dict[str, tuple[Size, ...]]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> _Types:
        elements: dict[str, int] = {}
        sizes: dict[str, tuple[Size, ...]] = {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            tensor = value.type.tensor_type
            elements[value.name] = tensor.elem_type
            if tensor.HasField("shape") and all(d.dim_param or d.HasField("dim_value") for d in tensor.shape.dim):
                sizes[value.name] = tuple(d.dim_param or int(d.dim_value) for d in tensor.shape.dim)
        for entry in graph.initializer:
            elements[entry.name] = entry.data_type
            sizes[entry.name] = tuple(entry.dims)
        return cls(elements, sizes)


def _relaxed(source: onnx.ModelProto, split: Split) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(source)
    graph, types = model.graph, _Types.of(model.graph)
    producers = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Reshape":
            nodes.extend(_relax_reshape(node, types, producers, split))
        elif node.op_type == "Expand":
            nodes.extend(_relax_expand(node, types, producers))
        nodes.append(node)
    _bypass(nodes, _identities(graph, types))
    alive = _alive(nodes, {value.name for value in graph.output})
    del graph.node[:]
    graph.node.extend(alive)
    return model


def _relax_reshape(
    node: onnx.NodeProto, types: _Types, producers: Mapping[str, onnx.NodeProto], split: Split
) -> Iterator[onnx.NodeProto]:
    before, after = types.sizes.get(node.input[0]), types.sizes.get(node.output[0])
    target = producers.get(node.input[1])
    if before is None or after is None or target is None or target.op_type not in {"Concat", "Constant"}:
        return
    shape = _reshape_target(before, after, split)
    if shape is None:
        return
    name = f"{node.output[0]}__shape"
    del node.attribute[:]
    node.input[1] = name
    yield _constant(name, shape)


def _reshape_target(before: Sequence[Size], after: Sequence[Size], split: Split) -> list[int] | None:
    """Return the target of a reshape in copied, inferred and literal sizes; None where symbols are regrouped."""
    shared = 0
    while shared < min(len(before), len(after)) and before[shared] == after[shared]:
        shared += 1
    rest = list(after[shared:])
    if any(isinstance(size, str) for size in (*rest, *before[shared:])):
        return None
    literals = [int(size) for size in rest]
    if literals:
        literals[-2 if split == "outer" and len(literals) > 1 else -1] = _INFER
    return [_COPY] * shared + literals


def _relax_expand(
    node: onnx.NodeProto, types: _Types, producers: Mapping[str, onnx.NodeProto]
) -> Iterator[onnx.NodeProto]:
    before, after = types.sizes.get(node.input[0]), types.sizes.get(node.output[0])
    target = producers.get(node.input[1])
    if before is None or after is None or len(before) != len(after) or target is None or target.op_type != "Concat":
        return
    if len(target.input) != len(after):
        return
    parts = list(target.input)
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new and isinstance(old, int):
            parts[axis] = f"{node.output[0]}__keep{axis}"
            yield _constant(parts[axis], [_KEEP])
    name = f"{node.output[0]}__shape"
    yield helper.make_node("Concat", parts, [name], axis=0)
    node.input[1] = name


def _identities(graph: onnx.GraphProto, types: _Types) -> dict[str, str]:
    """Return value -> equal value for casts and expansions that change nothing."""
    kept = {value.name for value in graph.output}
    found: dict[str, str] = {}
    for node in graph.node:
        if not node.output or node.output[0] in kept:
            continue
        source, result = (node.input[0] if node.input else ""), node.output[0]
        same_type = types.elements.get(source, 0) and types.elements.get(source) == types.elements.get(result)
        same_sizes = source in types.sizes and types.sizes[source] == types.sizes.get(result)
        if (node.op_type == "CastLike" and same_type) or (node.op_type == "Expand" and same_sizes):
            found[result] = source
    return found


def _bypass(nodes: Sequence[onnx.NodeProto], equal: Mapping[str, str]) -> None:
    for node in nodes:
        for index, name in enumerate(node.input):
            while name in equal:
                name = equal[name]
            node.input[index] = name


def _alive(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that some output depends on, in their order: ONNX Runtime's fusions depend on it."""
    needed = set(outputs)
    alive: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            alive.append(node)
    return alive[::-1]


def _constant(name: str, values: Sequence[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(values, dtype=np.int64)))
