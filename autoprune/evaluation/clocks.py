"""Call -> milliseconds: how one sample is timed on each kind of device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Call = Callable[[], None]
Clock = Callable[[Call, int], tuple[float, float]]
"""A call and how often it is made in one sample -> milliseconds a call: elapsed, and those in which it was served."""


def cpu_clock(call: Call, repeat: int) -> tuple[float, float]:
    """Return (wall, CPU) milliseconds a call.

    The CPU clock is the process's, not the thread's: a runtime may compute in threads of its own.
    """
    loop = range(repeat)
    start_wall, start_cpu = time.perf_counter(), time.process_time()
    for _ in loop:
        call()
    end_cpu, end_wall = time.process_time(), time.perf_counter()
    return (end_wall - start_wall) * 1e3 / repeat, (end_cpu - start_cpu) * 1e3 / repeat


def cuda_clock(call: Call, repeat: int) -> tuple[float, float]:
    """Return milliseconds a call between two events on an idle GPU, twice: a GPU does not tell whom it served.

    The GPU is waited for after each call, so that calls do not overlap and the time to launch them counts.
    """
    event: Any = torch.cuda.Event  # torch leaves it untyped
    start, end = event(enable_timing=True), event(enable_timing=True)
    total = 0.0
    torch.cuda.synchronize()
    for _ in range(repeat):
        start.record()
        call()
        end.record()
        end.synchronize()
        total += start.elapsed_time(end)
    return total / repeat, total / repeat


CLOCKS: Mapping[str, Clock] = {"cpu": cpu_clock, "cuda": cuda_clock}
