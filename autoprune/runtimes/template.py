"""Dense model -> ONNX template -> the graph of any candidate, in milliseconds instead of an export's seconds."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import numpy_helper
from torch import Tensor, nn

from autoprune.errors import CandidateError
from autoprune.runtimes.export import export_graph
from autoprune.runtimes.relax import relaxed_graphs
from autoprune.tasks.protocol import Inputs


class OnnxTemplate:
    """The dense model's graph; a candidate's own tensors take the place of its initializers.

    The graph is relaxed first, so that sizes come from the candidate's tensors and not from literals of the
    dense model. Reshapes that split a pruned dimension have two readings (fewer heads, or narrower heads), so
    there may be two bindings; which of them is right, if any, shows in the outputs. A candidate of other modules or
    parameters, such as one without some blocks or activations, has another graph and so no binding at all.

    Args:
        model: The dense (prepared) model.
        example: Inputs of one call.

    Raises:
        CandidateError: The dense model cannot be exported (stage `export`).
    """

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        graph = export_graph(model, example, optimize=False)
        tensors = _tensors(model)
        self._tree = _tree(model)
        initializers = {entry.name: entry for entry in graph.graph.initializer}
        self._names = tuple(
            name for name, entry in initializers.items() if name in tensors and _equal(entry, tensors[name])
        )
        self._skeletons = tuple(_skeleton(relaxed, self._names) for relaxed in relaxed_graphs(graph))

    def bind(self, model: nn.Module) -> bytes:
        """Return the graph with the candidate's tensors, in the first reading.

        Raises:
            CandidateError: The candidate has other modules or parameters than the dense model.
        """
        for payload in self.bindings(model):
            return payload
        raise CandidateError("The candidate's modules are not those of the template.", reason="error", stage="export")

    def bindings(self, model: nn.Module) -> Iterator[bytes]:
        """Yield the graph with the candidate's tensors in every reading; none is checked against the model.

        Nothing comes for a candidate whose modules, by path and class, or parameters differ from the dense model's.
        """
        if _tree(model) != self._tree:
            return
        tensors = _tensors(model)
        for skeleton in self._skeletons:
            graph = onnx.ModelProto()
            graph.CopyFrom(skeleton)
            graph.graph.initializer.extend(_initializer(name, tensors[name]) for name in self._names)
            _follow_groups(graph.graph, model)
            yield graph.SerializeToString()


def _follow_groups(graph: onnx.GraphProto, model: nn.Module) -> None:
    """Set the number of groups of every grouped convolution to the candidate's."""
    modules = dict(model.named_modules())
    for node in graph.node:
        if node.op_type not in {"Conv", "ConvTranspose"}:
            continue
        groups = getattr(modules.get(node.input[1].rpartition(".")[0]), "groups", None)
        for attribute in node.attribute:
            if attribute.name == "group" and isinstance(groups, int):
                attribute.i = groups


def _tree(model: nn.Module) -> dict[str, object]:
    """Return the class of every module, and the number of dimensions of every tensor, by path."""
    modules = {path: type(module) for path, module in model.named_modules(remove_duplicate=False)}
    return {**modules, **{name: tensor.dim() for name, tensor in _tensors(model).items()}}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers under every name they have."""
    found = dict(model.named_parameters(remove_duplicate=False))
    return {**found, **dict(model.named_buffers(remove_duplicate=False))}


def _initializer(name: str, tensor: Tensor) -> onnx.TensorProto:
    return numpy_helper.from_array(tensor.detach().contiguous().cpu().numpy(), name)


def _equal(entry: onnx.TensorProto, tensor: Tensor) -> bool:
    own = _initializer(entry.name, tensor)
    same = list(entry.dims) == list(own.dims) and entry.data_type == own.data_type
    return bool(same and (numpy_helper.to_array(entry) == numpy_helper.to_array(own)).all())


def _skeleton(graph: onnx.ModelProto, names: tuple[str, ...]) -> onnx.ModelProto:
    """Return the graph without the tensors that candidates bring and without any inferred shape."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(graph)
    constants = [entry for entry in graph.graph.initializer if entry.name not in set(names)]
    del skeleton.graph.initializer[:]
    skeleton.graph.initializer.extend(constants)
    del skeleton.graph.value_info[:]
    for output in skeleton.graph.output:
        output.type.tensor_type.ClearField("shape")
    return skeleton
