"""Torch model or ONNX file -> session of ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnxruntime
from torch import nn

from autoprune.errors import CandidateError
from autoprune.runtimes.export import export_graph, optimised, require_parity, serialize
from autoprune.runtimes.session import PARITY_TOLERANCE, OutputForm, feed, parity, reference_outputs
from autoprune.runtimes.targets import RUNTIMES, Runtime, Target
from autoprune.runtimes.template import OnnxTemplate
from autoprune.tasks.protocol import Inputs

_FATAL_ONLY = 4  # errors come as exceptions


class OnnxSession:
    """An ONNX graph on ONNX Runtime's CPU provider, all graph optimisations on, threads that do not spin.

    Args:
        payload: The bytes of one ONNX file.
        threads: Intra-op threads.
        outputs: What the torch model returns, for the structure; without it a tensor, or a tuple of tensors.
        from_template: Whether the graph was bound from a template rather than exported.

    Raises:
        CandidateError: ONNX Runtime refuses the graph (stage `export`).
    """

    def __init__(self, payload: bytes, *, threads: int, outputs: Any = None, from_template: bool = False) -> None:
        self.runtime_version = str(onnxruntime.__version__)
        self.from_template = from_template
        try:
            self._session = onnxruntime.InferenceSession(payload, _options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:
            message = f"ONNX Runtime refuses the graph: {error}"
            raise CandidateError(message, reason="error", stage="export") from error
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._form = None if outputs is None else OutputForm.of(outputs)

    def run(self, inputs: Inputs) -> Any:
        """Return the outputs as torch tensors.

        Raises:
            CandidateError: The graph does not take these inputs, such as another batch where its batch is fixed.
        """
        arrays = feed(inputs, self._inputs)
        try:
            results = self._session.run(self._outputs, arrays)
        except Exception as error:
            hint = f"The graph takes {[(value.name, value.shape) for value in self._session.get_inputs()]}."
            message = f"ONNX Runtime cannot run the model: {error}"
            raise CandidateError(message, reason="error", stage="quality", hint=hint) from error
        form = self._form or OutputForm.of(_placeholder(len(results)))
        return form.build(results)

    def call(self, inputs: Inputs) -> Callable[[], None]:
        """Return one forward pass as a timed call."""
        arrays, names, session = feed(inputs, self._inputs), self._outputs, self._session

        def forward() -> None:
            session.run(names, arrays)

        return forward


def open_onnx(source: Path | bytes, threads: int, *, outputs: Any = None) -> OnnxSession:
    """Open an ONNX file or its bytes; `outputs` gives the structure that a torch model returns."""
    payload = source.read_bytes() if isinstance(source, Path) else source
    return OnnxSession(payload, threads=threads, outputs=outputs)


def deploy_onnx(model: nn.Module, target: Target, example: Inputs, template: OnnxTemplate | None) -> OnnxSession:
    """Deploy a model: by the template where that reproduces its outputs, else by an export of its own.

    Raises:
        CandidateError: Even the full export fails, or computes something else (stage `export`).
    """
    reference = reference_outputs(model, example)
    for payload in template.bindings(model) if template else ():
        bound = _bound_session(payload, target.threads, reference, example)
        if bound is not None:
            return bound
    payload = serialize(export_graph(model, example, optimize=True))
    session = OnnxSession(payload, threads=target.threads, outputs=reference)
    require_parity(parity(reference, session.run(example)), reference)
    return session


def emit_onnx(model: nn.Module, example: Inputs, *, template: OnnxTemplate | None = None) -> bytes:
    """Return the one ONNX file of a model, checked, optimised, and with outputs equal to the torch model's.

    The template's graph is taken where it reproduces the model: it costs a tenth of a second instead of seconds.

    Args:
        model: Put into eval mode.
        example: Inputs of one call.
        template: The dense model's graph.

    Raises:
        CandidateError: Even an export of its own fails, or computes something else (stage `export`).
    """
    reference = reference_outputs(model, example)
    for bound in template.bindings(model) if template else ():
        with suppress(CandidateError):
            payload = optimised(bound)
            if _bound_session(payload, 1, reference, example) is not None:
                return payload
    payload = serialize(export_graph(model, example, optimize=True))
    session = OnnxSession(payload, threads=1, outputs=reference)
    require_parity(parity(reference, session.run(example)), reference)
    return payload


def _bound_session(payload: bytes, threads: int, reference: Any, example: Inputs) -> OnnxSession | None:
    try:
        session = OnnxSession(payload, threads=threads, outputs=reference, from_template=True)
        difference = parity(reference, session.run(example))
    except CandidateError:
        return None
    return session if difference <= PARITY_TOLERANCE else None


def _placeholder(count: int) -> Any:
    from torch import empty

    return empty(0) if count == 1 else tuple(empty(0) for _ in range(count))


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


RUNTIMES.register("onnxruntime")(Runtime("ONNX Runtime on the CPU", ("fp32",), deploy_onnx))
