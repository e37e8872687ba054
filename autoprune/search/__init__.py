"""The loop: proposes candidates, has them evaluated, recovers the best and emits the front."""

from autoprune.search.callbacks import Callback, Progress, RunInfo, SilentCallback
from autoprune.search.check import CheckReport, check
from autoprune.search.result import SearchResult
from autoprune.search.run import run, run_search
from autoprune.search.samplers import SAMPLERS
from autoprune.search.status import RunStatus, read_status

__all__ = [
    "SAMPLERS",
    "Callback",
    "CheckReport",
    "Progress",
    "RunInfo",
    "RunStatus",
    "SearchResult",
    "SilentCallback",
    "check",
    "read_status",
    "run",
    "run_search",
]
