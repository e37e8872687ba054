"""Model and target -> session whose outputs equal the torch model's."""

from __future__ import annotations

from torch import nn

from autoprune.runtimes.session import Session
from autoprune.runtimes.targets import RUNTIMES, Target
from autoprune.runtimes.template import OnnxTemplate
from autoprune.tasks.protocol import Inputs


def open_session(model: nn.Module, target: Target, example: Inputs, *, template: OnnxTemplate | None = None) -> Session:
    """Deploy a model on a target; an exported form is compared with the torch model's outputs on `example`.

    Args:
        model: Put into eval mode; kept, not copied, by the eager runtime.
        target: Where it runs.
        example: Inputs of one call, of the target's batch size.
        template: The dense model's graph, which spares the candidate an export where it fits.

    Raises:
        CandidateError: No deployed form reproduces the model (stage `export`).
    """
    return RUNTIMES[target.runtime].open(model, target, example, template)
