"""What all tests share: one thread, one cache of trained models a session, a tiny trained task."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autoprune.search.study import quiet_optuna

torch.set_num_threads(1)

TESTS = Path(__file__).parent
ALONE = frozenset(
    {"browser", "cluster", "faults", "test_benchmarks_scaling.py", "test_cli_engine.py", "test_cli_interrupt.py"}
    | {"test_devices.py", "test_distributed.py", "test_examples_search.py", "test_executors.py", "test_host_gate.py"}
    | {"test_latency.py", "test_learned_search.py", "test_ray_pool.py", "test_remote_store.py", "test_run_lock.py"}
    | {"test_search.py", "test_staged.py", "test_tune.py", "test_underway.py"}
)
"""Folders and files of tests that start processes, clusters or servers, or measure time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs with nothing beside it."""
    gone = [name for name in ALONE if not (TESTS / name).exists()]
    if gone:
        raise pytest.UsageError(f"conftest.py: ALONE names what does not exist: {', '.join(gone)}")
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in ALONE:
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session", autouse=True)
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep trained models of this session, also for the processes that tests start, out of the user's own cache."""
    path = tmp_path_factory.mktemp("models")
    os.environ["AUTOPRUNE_CACHE"] = str(path)
    return path


@pytest.fixture
def silent_optuna() -> Iterator[None]:
    """Keep Optuna from announcing each study."""
    with quiet_optuna():
        yield
