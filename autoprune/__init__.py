"""AutoML search for pruning policies: a trained PyTorch model goes in, a front of real pruned models comes out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.artifacts import load, verify
    from autoprune.config import RunConfig, load_config
    from autoprune.errors import AutopruneError
    from autoprune.groups import find_groups
    from autoprune.policy import Policy, Strategy
    from autoprune.pruning import prune
    from autoprune.search import Callback, Progress, SearchResult, run_search
    from autoprune.tasks import (
        BaseTask,
        ClassificationTask,
        DetectionTask,
        Evaluated,
        Inputs,
        LanguageModelTask,
        MetricSpec,
        RecoverContext,
        RegressionTask,
        Task,
        TextClassificationTask,
    )

_HOMES = {
    "AutopruneError": "errors",
    "BaseTask": "tasks",
    "Callback": "search",
    "ClassificationTask": "tasks",
    "DetectionTask": "tasks",
    "Evaluated": "tasks",
    "Inputs": "tasks",
    "LanguageModelTask": "tasks",
    "MetricSpec": "tasks",
    "Policy": "policy",
    "Progress": "search",
    "RecoverContext": "tasks",
    "RegressionTask": "tasks",
    "RunConfig": "config",
    "SearchResult": "search",
    "Strategy": "policy",
    "Task": "tasks",
    "TextClassificationTask": "tasks",
    "find_groups": "groups",
    "load": "artifacts",
    "load_config": "config",
    "prune": "pruning",
    "run_search": "search",
    "verify": "artifacts",
}

__all__ = [
    "AutopruneError",
    "BaseTask",
    "Callback",
    "ClassificationTask",
    "DetectionTask",
    "Evaluated",
    "Inputs",
    "LanguageModelTask",
    "MetricSpec",
    "Policy",
    "Progress",
    "RecoverContext",
    "RegressionTask",
    "RunConfig",
    "SearchResult",
    "Strategy",
    "Task",
    "TextClassificationTask",
    "find_groups",
    "load",
    "load_config",
    "prune",
    "run_search",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
    value = getattr(import_module(f"autoprune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
