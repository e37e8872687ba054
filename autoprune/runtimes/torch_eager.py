"""Torch model -> session that runs it eagerly on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoprune.runtimes.targets import RUNTIMES, Runtime, Target
from autoprune.runtimes.template import OnnxTemplate
from autoprune.tasks.protocol import Inputs


class TorchSession:
    """The torch model itself, in eval and inference mode.

    Args:
        model: Put into eval mode; shared, not copied.
        threads: Intra-op threads of each call; the caller's setting comes back after it.
    """

    def __init__(self, model: nn.Module, threads: int) -> None:
        self.runtime_version = str(torch.__version__)
        self._model = model.eval()
        self._threads = threads

    def run(self, inputs: Inputs) -> Any:
        """Return the model's outputs."""
        with _threads(self._threads), torch.inference_mode():
            return self._model(*inputs.args, **inputs.kwargs)

    def call(self, inputs: Inputs) -> Callable[[], None]:
        """Return one forward pass as a timed call."""
        model, threads = self._model, self._threads
        args, kwargs = inputs.args, inputs.kwargs

        def forward() -> None:
            with _threads(threads), torch.inference_mode():
                model(*args, **kwargs)

        return forward


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _open(model: nn.Module, target: Target, example: Inputs, template: OnnxTemplate | None) -> TorchSession:
    del example, template
    return TorchSession(model, target.threads)


RUNTIMES.register("torch-eager")(Runtime("PyTorch in eager mode", ("fp32",), _open))
