"""Configuration -> the engine that evaluates its candidates; an engine's libraries are imported when it is chosen."""

from __future__ import annotations

from autoprune.search.executors.base import Executor
from autoprune.search.executors.local import InProcessExecutor, ProcessPool
from autoprune.search.workbench import Setup, Workbench


def make_executor(setup: Setup, bench: Workbench) -> Executor:
    """Return a run's engine; one local worker without limits works in this process.

    Args:
        setup: What the workers build.
        bench: What the driver has built.
    """
    config = setup.config
    if config.search.workers == 1:
        return InProcessExecutor(bench)
    return ProcessPool(setup, config.search.workers)
