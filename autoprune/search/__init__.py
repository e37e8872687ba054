"""The loop: proposes candidates, has them evaluated, recovers the best and emits the front."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.search.callbacks import Callback, Progress, RunInfo, SilentCallback
    from autoprune.search.check import CheckReport
    from autoprune.search.result import SearchResult
    from autoprune.search.run import run_search
    from autoprune.search.samplers import SAMPLERS
    from autoprune.search.status import RunStatus, read_status

_HOMES = {
    "Callback": "callbacks",
    "CheckReport": "check",
    "Progress": "callbacks",
    "RunInfo": "callbacks",
    "RunStatus": "status",
    "SAMPLERS": "samplers",
    "SearchResult": "result",
    "SilentCallback": "callbacks",
    "read_status": "status",
    "run_search": "run",
}

__all__ = [
    "SAMPLERS",
    "Callback",
    "CheckReport",
    "Progress",
    "RunInfo",
    "RunStatus",
    "SearchResult",
    "SilentCallback",
    "read_status",
    "run_search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
