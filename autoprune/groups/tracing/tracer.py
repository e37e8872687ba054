"""Model -> evidence: one walk over the exported graph that labels every tensor with its channels."""

from __future__ import annotations

import operator as python_operator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.operator_schemas import normalize_function
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from autoprune.groups.cloning import named_tensors
from autoprune.groups.tracing.evidence import Evidence
from autoprune.groups.tracing.export import export_program
from autoprune.groups.tracing.labels import Cause, Factor, Labels
from autoprune.groups.tracing.operators import OPERATORS, Call, Result, UnsupportedOperatorError, Weights, operator_name
from autoprune.groups.tracing.operators.elementwise import IN_PLACE
from autoprune.groups.tracing.operators.registry import ATEN
from autoprune.tasks.protocol import Inputs

MISUSE = (UnsupportedOperatorError, AttributeError, LookupError, TypeError, ValueError)


@dataclass
class Trace:
    """One walked graph.

    Args:
        model: The traced model.
        program: Its exported graph.
        evidence: What is known about atoms.
        weights: The model's own tensors.
        labels: Node of the graph -> labels of its tensor or tensors.
        unknown: Operators that were not understood, with the place of first use.
    """

    model: nn.Module
    program: ExportedProgram
    evidence: Evidence = field(default_factory=Evidence)
    weights: Weights = field(default_factory=Weights)
    labels: dict[Node, Result] = field(default_factory=dict)
    unknown: dict[str, Cause] = field(default_factory=dict)


def trace_model(model: nn.Module, inputs: Inputs, *, query_heads: bool = False) -> Trace:
    """Export the model and label every tensor of its graph.

    `query_heads`: as in `find_groups`.

    Raises:
        ExportError: The model cannot be exported.
    """
    trace = Trace(model, export_program(model, inputs), Evidence(copies_first=query_heads))
    trace.weights.convolutions = _convolution_weights(model)
    own = _own_tensors(model, trace.program)
    seen: dict[int, Labels] = {}
    for node in trace.program.graph.nodes:
        trace.evidence.node = node.name
        trace.evidence.module = module_path(node)
        if node.op in ("placeholder", "get_attr"):
            _label_source(trace, node, own, seen)
        elif node.op == "call_function":
            _label_call(trace, node)
        elif node.op == "output":
            trace.evidence.module = ""
            for source in node.all_input_nodes:
                _freeze(trace, source, "its output is the model's output")
    return trace


def module_path(node: Node) -> str:
    """Return the path of the module in whose forward a node was made; empty for the model itself.

    A module's second call stands in the graph as `path@1`.
    """
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).partition("@")[0] if stack else ""


def tensor_shapes(value: object) -> tuple[tuple[int, ...], ...] | None:
    """Return the shapes of a node's tensor or tensors, or None when it makes something else."""
    tensors = list(value) if isinstance(value, list | tuple) else [value]
    shapes = tuple(tuple(int(n) for n in t.shape) for t in tensors if isinstance(t, Tensor))
    return shapes if tensors and len(shapes) == len(tensors) else None


def _own_tensors(model: nn.Module, program: ExportedProgram) -> dict[str, tuple[tuple[str, ...], Tensor]]:
    """Return placeholder -> (all names, tensor) of parameters and buffers."""
    tensors = named_tensors(model)
    names: dict[int, tuple[str, ...]] = {}
    for name, tensor in tensors.items():
        names[id(tensor)] = (*names.get(id(tensor), ()), name)
    signature = program.graph_signature
    own = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {node: (names[id(tensors[name])], tensors[name]) for node, name in own.items() if name in tensors}


def _convolution_weights(model: nn.Module) -> frozenset[str]:
    modules = model.named_modules(remove_duplicate=False)
    return frozenset(f"{path}.weight".lstrip(".") for path, module in modules if isinstance(module, _ConvNd))


def _label_source(
    trace: Trace, node: Node, own: dict[str, tuple[tuple[str, ...], Tensor]], seen: dict[int, Labels]
) -> None:
    """Give every dimension of a used parameter or float buffer atoms of its own; inputs and constants get none."""
    shapes = tensor_shapes(node.meta.get("val"))
    if shapes is None:
        return
    trace.labels[node] = Labels(shapes[0])
    if node.name not in own or not own[node.name][1].is_floating_point() or not node.users:
        return
    names, tensor = own[node.name]
    if id(tensor) not in seen:
        sizes = [(dim, size) for dim, size in enumerate(shapes[0]) if size > 1]
        factors = tuple(Factor.single(trace.evidence.fresh(size), dim) for dim, size in sizes)
        seen[id(tensor)] = Labels(shapes[0], factors)
        trace.weights.add(names, seen[id(tensor)])
    trace.labels[node] = seen[id(tensor)]


def _label_call(trace: Trace, node: Node) -> None:
    if node.target is python_operator.getitem:
        source, index = node.args
        whole = trace.labels.get(source) if isinstance(source, Node) else None
        if isinstance(whole, list) and isinstance(index, int):
            trace.labels[node] = whole[index]
        return
    value = node.meta.get("val")
    shapes = tensor_shapes(value)
    single = isinstance(value, Tensor)
    if shapes is None:
        if any(isinstance(part, Tensor) for part in tree_leaves(value)):
            _note_unknown(trace, node, UnsupportedOperatorError("it returns more than tensors"))
        return
    try:
        result = _handled(trace, node, shapes, single=single)
    except MISUSE as error:
        _note_unknown(trace, node, error)
        blank = [Labels(shape) for shape in shapes]
        result = blank[0] if single else blank
    trace.labels[node] = result


def _handled(trace: Trace, node: Node, shapes: tuple[tuple[int, ...], ...], *, single: bool) -> Result:
    name = operator_name(node)
    known = handler_name(name)
    if known is None:
        raise UnsupportedOperatorError("")
    bare = known.rpartition("::")[2]
    call = Call(trace.evidence, trace.weights, bare, _arguments(node), trace.labels, shapes, single)
    result = OPERATORS[known](call)
    if not _fits(result, shapes, single=single):
        raise UnsupportedOperatorError("its labels do not fit its result")
    return result


def handler_name(name: str) -> str | None:
    """Return under which name `OPERATORS` has a handler for an operator, or None.

    The full name comes first. Without its namespace an operator is looked for only where torch has none of that name:
    `acme::add` need not do what `add` does.

    Args:
        name: As `acme::gate`; without namespace for torch's own, in-place forms too.
    """
    _, separator, bare = name.rpartition("::")
    if not separator:
        out_of_place = bare[:-1] if bare in IN_PLACE else bare
        tried = [f"{ATEN}::{out_of_place}", out_of_place]
    else:
        tried = [name] if hasattr(torch.ops.aten, bare) else [name, bare]
    return next((found for found in tried if found in OPERATORS), None)


def _arguments(node: Node) -> dict[str, Any]:
    """Return the call's arguments by the names of the operator's schema, with defaults; `self` is called `input`."""
    if not callable(node.target):
        raise UnsupportedOperatorError("it is not a function")
    args = cast("tuple[Any]", node.args)
    pair = normalize_function(node.target, args, dict(node.kwargs), normalize_to_only_use_kwargs=True)
    if pair is None:
        raise UnsupportedOperatorError("its schema is ambiguous")
    return dict(pair.kwargs)


def _fits(result: Result, shapes: tuple[tuple[int, ...], ...], *, single: bool) -> bool:
    """Check that labels have the shapes of the tensors: a handler's mistake must not go further."""
    results = [result] if isinstance(result, Labels) else result
    if single != isinstance(result, Labels) or tuple(r.shape for r in results) != shapes:
        return False
    for labels in results:
        covered = [d for factor in labels.factors for d in factor.visible]
        if len(covered) != len(set(covered)):
            return False
        sizes = [(n, d) for f in labels.factors for n, d in zip(f.atoms.shape, f.dims, strict=True) if d is not None]
        if any(n != labels.shape[d] for n, d in sizes):
            return False
    return True


def _note_unknown(trace: Trace, node: Node, error: Exception) -> None:
    """Keep everything that enters an operator which is not understood."""
    name = operator_name(node)
    detail = str(error) if isinstance(error, UnsupportedOperatorError) else ""
    reason = f"unknown operator: {name}" if not detail else f"unsupported use of {name}: {detail}"
    before = len(trace.evidence.freezes)
    for source in node.all_input_nodes:
        _freeze(trace, source, reason)
    if len(trace.evidence.freezes) > before:
        trace.unknown.setdefault(name, trace.evidence.cause(reason))


def _freeze(trace: Trace, node: Node, reason: str) -> None:
    found = trace.labels.get(node, [])
    for labels in [found] if isinstance(found, Labels) else found:
        trace.evidence.freeze(labels, reason)
