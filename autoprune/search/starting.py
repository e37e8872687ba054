"""Configuration -> a started engine, or one clear error; the process's own signal handlers stay in place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from autoprune.config.model import RunConfig
from autoprune.errors import AutopruneError
from autoprune.search.executors.base import Executor
from autoprune.search.executors.make import make_executor
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench
from autoprune.tasks.failures import describe

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def start_executor(setup: Setup, bench: Workbench) -> Executor:
    """Return a run's engine, at work.

    Args:
        setup: What the workers build.
        bench: What the driver has built.

    Raises:
        AutopruneError: It cannot be started.
    """
    kind = setup.config.executor.kind
    with kept_handlers():
        try:
            return make_executor(setup, bench)
        except AutopruneError:
            raise
        except Exception as error:
            raise AutopruneError(
                f"The executor {kind!r} cannot be started: {describe(error)}",
                hint="`autoprune doctor` shows what a run finds here; executor.kind=local needs no cluster.",
            ) from error


def works_apart(config: RunConfig) -> bool:
    """Tell whether candidates are evaluated in other processes than the driver's."""
    executor = config.executor
    limited = executor.timeout_s is not None or executor.memory_mb is not None
    return config.search.workers > 1 or executor.kind != "local" or limited


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Put the handlers of SIGINT and SIGTERM back at the end: connecting to Ray replaces that of SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
