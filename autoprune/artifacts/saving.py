"""Pruned model -> directory with its forms, its numbers and a manifest, all at once or not at all."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from autoprune.artifacts.files import CARD, METRICS, PLAN, POLICY, PROBES, WEIGHTS
from autoprune.artifacts.formats import FORMATS
from autoprune.artifacts.probes import probes_bytes
from autoprune.errors import ArtifactError
from autoprune.groups.architecture import architecture_to_json
from autoprune.groups.types import ArchitecturePlan
from autoprune.storage import Source, dump_json, write_directory
from autoprune.tasks.protocol import Inputs


@dataclass(frozen=True)
class Member:
    """One model to emit.

    Args:
        model: Pruned and recovered; it is put into eval mode.
        example: Inputs of a batch of at least two, on which every form has to agree.
        policy: `Policy.to_json()`.
        architecture: What the model is, relative to the user's own definition.
        metrics: What was measured, as plain JSON.
        card: The model card, Markdown.
        formats: Names in `FORMATS` to export to.
        exported: Format name -> file content that was exported and measured before; the others are exported now.
    """

    model: nn.Module
    example: Inputs
    policy: Mapping[str, Any]
    architecture: ArchitecturePlan
    metrics: Mapping[str, Any]
    card: str
    formats: Sequence[str] = ("onnx", "pt2")
    exported: Mapping[str, bytes] = field(default_factory=dict)


def save_member(directory: Path, member: Member) -> Path:
    """Write a model's directory, replacing an older one; what was there stays until the new one is complete.

    Raises:
        ArtifactError: Weights or example inputs have no plain form.
        CandidateError: A form cannot be exported.
        StorageError: Disk full, permission, or another failure of the file system.
    """
    model = member.model.eval()
    files: dict[str, Source] = {
        CARD: member.card.encode(),
        POLICY: dump_json(member.policy),
        PLAN: dump_json(architecture_to_json(member.architecture)),
        METRICS: dump_json(member.metrics),
        WEIGHTS: weights_bytes(model),
        PROBES: probes_bytes(model, member.example),
    }
    for name in member.formats:
        form = FORMATS[name]
        files[form.file] = member.exported.get(name) or functools.partial(form.write, model, member.example)
    write_directory(directory, files, replace=True)
    return directory


def weights_bytes(model: nn.Module) -> bytes:
    """Return the model's state as safetensors; tied tensors are stored under each of their names.

    Raises:
        ArtifactError: A module keeps state that is no tensor.
    """
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ArtifactError(
                f"{name} is a {type(value).__name__}, and only tensors are stored.",
                hint="Give the module no extra state, or keep it as a buffer.",
            )
        state[name] = value.detach().cpu().contiguous().clone()
    return bytes(save(state))
