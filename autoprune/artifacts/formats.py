"""Pruned model -> files that run without its source: ONNX and torch.export, and how each is run again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.errors import ArtifactError, CandidateError
from autoprune.registry import Registry
from autoprune.runtimes import emit_onnx, open_onnx
from autoprune.runtimes.session import tensor_leaves
from autoprune.tasks.protocol import Inputs


@dataclass(frozen=True)
class Format:
    """One exported form.

    Args:
        file: File name in a model's directory.
        write: Exports a model in eval mode, given example inputs, to a path.
        run: Opens a file and returns its outputs for inputs; called only on files that the manifest vouches for.
        executes_code: Whether opening a hostile file can run code.
    """

    file: str
    write: Callable[[nn.Module, Inputs, Path], None]
    run: Callable[[Path, Inputs], Any]
    executes_code: bool = False


FORMATS: Registry[Format] = Registry("export format", group="autoprune.exporters")


def export_bytes(name: str, model: nn.Module, example: Inputs) -> bytes:
    """Return a model exported to a format by name.

    Raises:
        CandidateError: The model cannot be exported.
    """
    form = FORMATS[name]
    with TemporaryDirectory() as folder:
        path = Path(folder) / form.file
        form.write(model, example, path)
        return path.read_bytes()


def write_onnx(model: nn.Module, example: Inputs, path: Path) -> None:
    """Write one checked ONNX file.

    Raises:
        CandidateError: The model cannot be exported, or the file computes something else.
    """
    path.write_bytes(emit_onnx(model, example))


def run_onnx(path: Path, inputs: Inputs) -> Any:
    """Check an ONNX file and run it in ONNX Runtime.

    Raises:
        ArtifactError: It is invalid or does not take the inputs.
    """
    payload = path.read_bytes()
    try:
        onnx.checker.check_model(payload)
        return open_onnx(payload, threads=1).run(inputs)
    except Exception as error:
        raise ArtifactError(f"{path.name} does not run: {_first_line(error)}") from error


def write_pt2(model: nn.Module, example: Inputs, path: Path) -> None:
    """Write a torch.export program, with a dynamic batch where the model allows it.

    Its outputs are plain dictionaries, lists and tuples: a program that returns a class of another package, such as
    Hugging Face's `ModelOutput`, cannot be opened by who has not imported that package.

    Raises:
        CandidateError: The model cannot be exported.
    """
    try:
        with _quiet(), _plain_outputs(model):
            program = torch.export.export(
                model, example.args, example.kwargs, dynamic_shapes=_dynamic_shapes(model, example)
            )
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of the machine
            torch.export.save(program, path)
    except Exception as error:
        message = f"The model cannot be exported by torch.export: {_first_line(error)}"
        raise CandidateError(message, reason="error", stage="export") from error


def run_pt2(path: Path, inputs: Inputs) -> Any:
    """Load a torch.export program, which can execute code, and run it.

    Raises:
        ArtifactError: It cannot be loaded or does not take the inputs.
    """
    try:
        with _quiet(), torch.inference_mode():
            return torch.export.load(path).module()(*inputs.args, **inputs.kwargs)
    except Exception as error:
        raise ArtifactError(f"{path.name} does not run: {_first_line(error)}") from error


FORMATS.register("onnx")(Format("model.onnx", write_onnx, run_onnx))
FORMATS.register("pt2")(Format("model.pt2", write_pt2, run_pt2, executes_code=True))


def _dynamic_shapes(model: nn.Module, example: Inputs) -> Any:
    """Let the first dimension of every input vary where tracing finds that it can."""
    collection: Any = torch.export.ShapesCollection  # torch leaves it untyped
    shapes = collection()
    for leaf in tensor_leaves(example):
        if leaf.ndim:
            shapes[leaf] = {0: torch.export.Dim.AUTO}
    return shapes.dynamic_shapes(model, example.args, example.kwargs)


@contextmanager
def _plain_outputs(model: nn.Module) -> Iterator[None]:
    """Let a model return plain containers as long as the context lasts."""
    handle = model.register_forward_hook(lambda _module, _args, outputs: _plain(outputs))
    try:
        yield
    finally:
        handle.remove()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    leaves = pytree.tree_leaves(value)
    return value if len(leaves) == 1 and leaves[0] is value else tuple(leaves)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence deprecations inside torch.export's own serialisation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
