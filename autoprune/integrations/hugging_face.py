"""Pruned Hugging Face model -> one of its own class and configuration, that `from_pretrained` loads."""

from __future__ import annotations

from torch import nn

from autoprune.errors import ArtifactError
from autoprune.groups.pretrained import as_configured, is_pretrained
from autoprune.tasks.protocol import Inputs


def as_pretrained(model: nn.Module, example: Inputs) -> nn.Module:
    """Return a model built from a configuration with the pruned sizes, removed layers left out, with equal outputs.

    Args:
        model: A pruned `transformers` model, as `autoprune.load` returns it; it is left as it is.
        example: Inputs of one call, on which both models' outputs are compared.

    Raises:
        ArtifactError: No configuration describes the model, because its layers differ from each other or it is none.
    """
    if not is_pretrained(model):
        raise ArtifactError(f"{type(model).__name__} is not built from a configuration, so it has no pretrained form.")
    built, _, reason = as_configured(model, example)
    if built is None:
        raise ArtifactError(
            f"No configuration describes the pruned {type(model).__name__}: {reason}.",
            hint="Load it with autoprune.load, or prune all layers alike (the same sparsity for all groups of a kind).",
        )
    return built
