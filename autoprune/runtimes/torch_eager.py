"""Torch model -> session that runs it eagerly, on the CPU or on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoprune.runtimes.devices import CPU, on_device, require_cuda
from autoprune.runtimes.targets import RUNTIMES, Runtime, Target
from autoprune.runtimes.template import OnnxTemplate
from autoprune.tasks.protocol import Inputs


class TorchSession:
    """The torch model itself, in eval and inference mode.

    Args:
        model: Put into eval mode; shared on the CPU, copied to a GPU.
        threads: Intra-op threads of each call; the caller's setting comes back after it.
        device: Where it computes; inputs and outputs lie on the CPU all the same.
    """

    def __init__(self, model: nn.Module, threads: int, device: torch.device = CPU) -> None:
        self.runtime_version = str(torch.__version__)
        self._device = device
        self._model = model.eval() if device == CPU else copy.deepcopy(model).to(device).eval()
        self._threads = threads

    def run(self, inputs: Inputs) -> Any:
        """Return the model's outputs."""
        args, kwargs = on_device(inputs, self._device)
        with _threads(self._threads), torch.inference_mode():
            outputs = self._model(*args, **kwargs)
        return outputs if self._device == CPU else on_device(outputs, CPU)

    def call(self, inputs: Inputs) -> Callable[[], None]:
        """Return one forward pass as a timed call, with its inputs on the device; a GPU is not waited for."""
        model, threads = self._model, self._threads
        args, kwargs = on_device(inputs, self._device)

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
    device = require_cuda(f"Target {target.name}") if target.device == "cuda" else CPU
    return TorchSession(model, target.threads, device)


RUNTIMES.register("torch-eager")(Runtime("PyTorch in eager mode", ("fp32",), _open, ("cpu", "cuda")))
