"""Model -> ATen graph, by torch.export; the model is left as it was."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import nn
from torch.export import ExportedProgram

from autoprune.errors import AutopruneError
from autoprune.tasks.protocol import Inputs

EXPORT_FAILED = "The model cannot be exported: "
LOGGERS = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")


class ExportError(AutopruneError):
    """The model's Python depends on data, or fails, so it has no single graph."""


def export_program(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    """Return the graph of one forward pass in evaluation mode, sizes fixed to those of `inputs`.

    Raises:
        ExportError: The model cannot be exported; the cause is chained.
    """
    with _neutral(model), _quiet():
        try:
            return torch.export.export(model, tuple(inputs.args), dict(inputs.kwargs), strict=False)
        except Exception as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"{EXPORT_FAILED}{first_line}") from error


@contextmanager
def _neutral(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode with gradients, which avoids fused inference-only operators; then restore it."""
    training = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_()
        with torch.enable_grad():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter, flag in gradients.items():
            parameter.requires_grad_(flag)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what torch.export says besides its exception.

    It warns about its own deprecated internals and about attributes that a forward assigns; when it fails, which here
    is an expected outcome with a remedy, it logs the traceback and prints the whole graph to stderr.
    """
    loggers = {name: logging.getLogger(name) for name in LOGGERS}
    levels = {name: logger.level for name, logger in loggers.items()}
    try:
        for logger in loggers.values():
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            loggers[name].setLevel(level)
