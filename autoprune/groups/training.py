"""Model that trains with more layers than it evaluates with -> whether it still trains once it is cut."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.groups.recording import FORWARD_ERRORS, tensors_of
from autoprune.groups.tracing import Trace
from autoprune.tasks.protocol import Inputs


def idle_parameters(trace: Trace) -> list[str]:
    """Return the names of trainable tensors that the traced pass, in evaluation mode, does not use."""
    used = {name for names in trace.weights.names.values() for name in names}
    return [name for name, p in trace.model.named_parameters() if p.is_floating_point() and name not in used]


def training_shapes(model: nn.Module, inputs: Inputs) -> list[tuple[int, ...]] | str:
    """Return the shapes of the outputs of one pass in training mode, or why it fails; random numbers are put back.

    Args:
        model: Its mode and statistics change.
        inputs: Arguments of the pass.
    """
    try:
        with torch.random.fork_rng(), torch.no_grad():
            outputs = tensors_of(model.train()(*inputs.args, **inputs.kwargs))
    except FORWARD_ERRORS as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return [tuple(tensor.shape) for tensor in outputs]
