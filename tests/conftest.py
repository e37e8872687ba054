"""What all tests share: one thread, one cache of trained models a session, a tiny trained task."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autoprune.search.study import quiet_optuna

torch.set_num_threads(1)


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
