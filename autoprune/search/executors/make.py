"""Configuration -> the engine that evaluates its candidates; an engine's libraries are imported when it is chosen."""

from __future__ import annotations

from autoprune.errors import ConfigError
from autoprune.search.executors.base import Executor
from autoprune.search.executors.fetching import FetchingExecutor, in_store
from autoprune.search.executors.local import InProcessExecutor, LocalPool
from autoprune.search.executors.staged import StagedExecutor
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench


def make_executor(setup: Setup, bench: Workbench) -> Executor:
    """Return a run's engine; one local worker without limits works in this process.

    Args:
        setup: What the workers build.
        bench: What the driver has built.

    Raises:
        ConfigError: The settings of `executor` do not go together, or there is no such cluster.
        MissingExtraError: The store needs a library that is not installed.
    """
    executor = setup.config.executor
    _refuse_contradictions(setup)
    if executor.kind == "local":
        limited = executor.timeout_s is not None or executor.memory_mb is not None
        if setup.config.search.workers == 1 and not limited:
            return InProcessExecutor(bench)
        return LocalPool(setup, setup.config.search.workers)
    engine = _on_cluster(in_store(setup))
    return engine if executor.store is None else FetchingExecutor(engine, setup)


def _on_cluster(setup: Setup) -> Executor:
    executor = setup.config.executor
    if executor.kind == "tune":
        from autoprune.search.executors.tune import TunePool

        return TunePool(setup)
    from autoprune.search.executors.ray_pool import RayPool

    pool = RayPool(setup)
    if executor.latency_resource is None:
        return pool
    return StagedExecutor(pool, RayPool(setup, executor.latency_resource))


def _refuse_contradictions(setup: Setup) -> None:
    executor = setup.config.executor
    if executor.kind != "ray" and executor.latency_resource is not None:
        raise ConfigError(
            f"executor.latency_resource needs executor.kind=ray; given was {executor.kind}.",
            hint="Leave it out: latency is then measured where a candidate is trained.",
        )
    if executor.kind == "local" and executor.store is not None:
        raise ConfigError(
            "executor.store is for the workers of a cluster; executor.kind is local.",
            hint="Leave it out: local workers write into the run's directory.",
        )
