"""When a candidate may compute: training and measuring take turns on a host."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import nn

from autoprune.evaluation import HostGate

GATE_STEPS = 10


class TrainingTurn:
    """Holds the host's shared lock while a candidate trains, and lets measurements in between every few steps.

    Args:
        gate: The host's lock.
        device: Where it trains; a GPU is waited for before the lock is let go.
    """

    def __init__(self, gate: HostGate, device: torch.device) -> None:
        self._gate = gate
        self._device = device
        self._stack = ExitStack()

    def __enter__(self) -> Callable[[nn.Module, int], None]:
        self._stack.enter_context(self._gate.shared())
        return self._after_step

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _after_step(self, model: nn.Module, step: int) -> None:
        del model
        if step % GATE_STEPS == GATE_STEPS - 1:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # a GPU works on after its steps were asked for
            self._stack.close()
            self._stack.enter_context(self._gate.shared())
