"""Example inputs and the model's outputs <-> probes.safetensors: what every form of a model is held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autoprune.errors import ArtifactError
from autoprune.runtimes.session import reference_outputs, tensor_leaves
from autoprune.tasks.protocol import Inputs

_PLAIN = (bool, int, float, str, type(None))
_KEY = "inputs"


class Probes(NamedTuple):
    """Inputs of one call and the tensors that the torch model returned for them, in order."""

    inputs: Inputs
    outputs: tuple[Tensor, ...]


def run_model(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the tensors of the model's outputs in eval mode."""
    return tuple(tensor_leaves(reference_outputs(model, inputs)))


def probes_bytes(model: nn.Module, example: Inputs) -> bytes:
    """Run the model on `example` and return the file's content.

    Raises:
        ArtifactError: The inputs have no plain form, or an output is not finite.
    """
    tensors: dict[str, Tensor] = {}
    structure = {"args": _flatten(tuple(example.args), tensors), "kwargs": _flatten(dict(example.kwargs), tensors)}
    outputs = run_model(model, example)
    for index, output in enumerate(outputs):
        if not bool(torch.isfinite(output.double()).all()):
            raise ArtifactError(f"Output {index} of the model is not finite on its example inputs.")
        tensors[f"output.{index}"] = output.detach().contiguous().clone()
    return bytes(save(tensors, metadata={_KEY: json.dumps(structure, allow_nan=False)}))


def read_probes(path: Path) -> Probes:
    """Read the file that `probes_bytes` made.

    Raises:
        ArtifactError: It is something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
            structure = json.loads((file.metadata() or {})[_KEY])
        inputs = Inputs(_rebuild(structure["args"], tensors), _rebuild(structure["kwargs"], tensors))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} holds no probes: {error}") from error
    count = sum(name.startswith("output.") for name in tensors)
    return Probes(inputs, tuple(tensors[f"output.{index}"] for index in range(count)))


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the JSON form of nested inputs; their tensors go to `tensors`."""
    if isinstance(value, Tensor):
        name = f"input.{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, _PLAIN):
        return {"value": value}
    if isinstance(value, tuple | list):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(item, tensors) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _flatten(item, tensors) for key, item in value.items()}}
    raise ArtifactError(
        f"Example inputs hold a {type(value).__name__}, which has no plain form.",
        hint="Use tensors, numbers, strings and tuples, lists or dicts of them.",
    )


def _rebuild(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = form.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "value" and isinstance(content, _PLAIN):
        return content
    if kind == "dict":
        return {key: _rebuild(item, tensors) for key, item in content.items()}
    if kind in ("list", "tuple"):
        items = [_rebuild(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    raise ValueError(f"unknown form {kind!r}")
