"""Torch model -> ONNX graph: one file, checked, with a dynamic batch where the model allows it."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import onnx
import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.errors import CandidateError
from autoprune.runtimes.session import PARITY_TOLERANCE, parity, reference_outputs, tensor_leaves
from autoprune.tasks.protocol import Inputs

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def export_graph(model: nn.Module, example: Inputs, *, optimize: bool) -> onnx.ModelProto:
    """Trace a model into an ONNX graph; its first dimension is dynamic where the model allows, else fixed.

    Args:
        model: Put into eval mode.
        example: Inputs of one call.
        optimize: Fold constants and fuse; without it, initializers keep the names of the parameters.

    Raises:
        CandidateError: The model cannot be exported (stage `export`).
    """
    model.eval()
    doubled = _doubled_batch(model, example)
    if doubled is not None:
        try:
            graph = _trace(model, doubled, optimize=optimize, dynamic=True)
        except CandidateError:
            graph = None
        if graph is not None and _has_dynamic_batch(graph):
            return graph
    return _trace(model, example, optimize=optimize, dynamic=False)


def optimised(payload: bytes) -> bytes:
    """Return a graph with constants folded and patterns fused, as torch's own exporter leaves it.

    Raises:
        CandidateError: The optimizer refuses the graph, or leaves an invalid one.
    """
    try:
        with _quiet():
            graph = onnxscript.optimizer.optimize(onnx.load_from_string(payload))
    except Exception as error:
        message = f"The graph cannot be optimised: {_root_cause(error)}"
        raise CandidateError(message, reason="error", stage="export") from error
    return serialize(graph)


def serialize(graph: onnx.ModelProto) -> bytes:
    """Return the checked graph as the bytes of a single file.

    Raises:
        CandidateError: The graph is invalid, or over the format's 2 GiB a file.
    """
    try:
        payload: bytes = graph.SerializeToString()
        onnx.checker.check_model(payload)
    except Exception as error:
        raise CandidateError(f"The ONNX graph is invalid: {error}", reason="error", stage="export") from error
    return payload


def require_parity(difference: float, reference: Any) -> None:
    """Refuse outputs that differ from the torch model's by more than the tolerance.

    Raises:
        CandidateError: With reason `nonfinite` when the torch model's own outputs are not finite.
    """
    if difference <= PARITY_TOLERANCE:
        return
    finite = all(bool(torch.isfinite(leaf.double()).all()) for leaf in tensor_leaves(reference))
    if not finite:
        raise CandidateError("The model's outputs are not finite.", reason="nonfinite", stage="export")
    message = f"The exported model differs from the torch model by {difference:.2g} of the output's scale."
    raise CandidateError(message, reason="error", stage="export", hint=f"At most {PARITY_TOLERANCE} is allowed.")


def _doubled_batch(model: nn.Module, example: Inputs) -> Inputs | None:
    """Return inputs of twice the batch, or None where the model does not treat the first dimension as a batch.

    Tracing specialises on sizes 0 and 1, so the export always sees at least two examples.
    """
    if not tensor_leaves(example) or any(leaf.ndim == 0 for leaf in tensor_leaves(example)):
        return None
    doubled = pytree.tree_map_only(Tensor, lambda leaf: torch.cat([leaf, leaf]), example)
    try:
        single, double = reference_outputs(model, example), reference_outputs(model, doubled)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    if any(leaf.ndim == 0 for leaf in tensor_leaves(single)):
        return None
    expected = pytree.tree_map_only(Tensor, lambda leaf: torch.cat([leaf, leaf]), single)
    return doubled if parity(expected, double) <= PARITY_TOLERANCE else None


def _trace(model: nn.Module, example: Inputs, *, optimize: bool, dynamic: bool) -> onnx.ModelProto:
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                example.args,
                kwargs=example.kwargs,
                dynamo=True,
                optimize=optimize,
                verbose=False,
                output_names=_output_names(model, example),
                dynamic_shapes=_dynamic_shapes(model, example) if dynamic else None,
            )
    except Exception as error:
        message = f"The model cannot be exported to ONNX: {_root_cause(error)}"
        raise CandidateError(message, reason="error", stage="export") from error
    if program is None:
        raise CandidateError("The exporter returned no ONNX program.", reason="error", stage="export")
    return _without_source_paths(program.model_proto)


def _output_names(model: nn.Module, example: Inputs) -> list[str] | None:
    """Return a name a tensor of the output: its key in a dictionary, else output, output_1, ...

    None, which leaves the exporter's own names, where the output holds something else than tensors or the model does
    not run outside the exporter.
    """
    try:
        paths, _ = pytree.tree_flatten_with_path(reference_outputs(model, example))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    names: list[str] = []
    for path, leaf in paths:
        if not isinstance(leaf, Tensor):
            return None
        keys = [str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", "")))) for part in path]
        name = "_".join(keys) if keys and not keys[0].isdigit() else "_".join(["output", *keys])
        names.append(name if name not in {*names, *example.kwargs} else f"{name}_{len(names)}")
    return names


def _root_cause(error: BaseException) -> str:
    """Return the first line of the innermost error; the exporter's own wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = _COLOUR.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _dynamic_shapes(model: nn.Module, example: Inputs) -> Any:
    collection: Any = torch.export.ShapesCollection  # torch leaves it untyped
    shapes = collection()
    for leaf in tensor_leaves(example):
        shapes[leaf] = {0: torch.export.Dim.AUTO}
    return shapes.dynamic_shapes(model, example.args, example.kwargs)


def _has_dynamic_batch(graph: onnx.ModelProto) -> bool:
    return all(value.type.tensor_type.shape.dim[0].HasField("dim_param") for value in graph.graph.input)


def _without_source_paths(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the stack traces that the exporter attaches: they hold paths of the machine and double the size."""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    entries = (*graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output)
    for entry in (*entries, *graph.graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter: deprecations of its own, notes on an absent torchvision, dumps of failed graphs."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in ("torch", "onnxscript")}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
